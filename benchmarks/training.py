"""Training steps: the mixture's beside PEFT's single LoRA, one pass an expert, constant weights, the warm start."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from paired_timing import Batch, Ratio, batches, compare, mixture, peft_config
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from moe.config.run import load_run
from moe.config.stages import JOINT, WARMUP, Stage
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_ops import AttentionSwitch
from moe.model.mixture import Mixture, MixtureOutput
from moe.training.objective import LossContext, Objective
from moe.training.trainer import set_trainable
from router.dao import DAOSettings

LIMITS = {("bfloat16", 1): "≤ 0.9", ("bfloat16", 3): "≤ 0.6", ("float32", 3): "≤ 0.5"}


def training(texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """A joint step beside PEFT's single LoRA, one pass an expert, constant weights; a warm-start step beside it.

    Args:
        dtype: of our frozen backbone; with bfloat16, PEFT is measured under autocast and in fp32.
    """
    some = batches(load_backbone(BackboneSettings()), texts)
    for theirs in dict.fromkeys((dtype, "float32")):
        yield from beside_peft(some, dtype, theirs, rounds)
    joint = Step(mixture(5, 16, 1, dtype), JOINT, some)
    known = Step(mixture(5, 16, 1, dtype), JOINT, some, cached=True)
    single = PeftStep(some, dtype)
    for states, ours in (("computed", joint), ("known", known)):
        name = f"joint step, E = 5, m = 1, {dtype}, trunk states {states}: one pass an expert"
        yield compare(name, ours, lambda: [single() for _ in range(5)], "≤ 0.2", rounds)
    constant = Step(mixture(5, 16, 1, dtype), JOINT, some, inner="constant", outer="constant")
    yield compare(f"joint step, {dtype}, DAO in two levels: constants", joint, constant, "≤ 1.02", rounds)
    everywhere = Step(mixture(5, 16, 1, dtype), JOINT, some, measured="parameters")
    yield compare(
        f"joint step, {dtype}, DAO measured at all experts' weights: constants", everywhere, constant, "–", rounds
    )
    ahead = Step(mixture(5, 16, 1, dtype), JOINT, some[:1], dao=DAOSettings(objective="validation"))
    ahead.look_at(some[1])
    plain = Step(mixture(5, 16, 1, dtype), JOINT, some[:1], inner="constant", outer="constant")
    yield compare(
        f"ten joint steps, {dtype}, DAO by a held-out batch every tenth: constants",
        lambda: [ahead() for _ in range(10)],
        lambda: [plain() for _ in range(10)],
        "≤ 1.1",
        rounds,
    )
    warm = Step(mixture(5, 16, 1, dtype), WARMUP, some)
    yield compare(f"warm-start step, {dtype}: joint step", warm, joint, "≤ 0.6", rounds)


def beside_peft(some: Sequence[Batch], dtype: str, theirs: str, rounds: int) -> Iterator[Ratio]:
    """Our joint step at its best settings, and without known trunk states, beside PEFT's in one precision."""
    single = PeftStep(some, theirs)
    said = "fp32" if theirs == "float32" else "bf16 autocast"
    for trunk in (1, 3):
        for cached in (True, False):
            ours = Step(mixture(5, 16, trunk, dtype), JOINT, some, cached=cached)
            limit = LIMITS.get((theirs, trunk), "–") if cached else "–"
            states = "known" if cached else "computed"
            name = f"joint step, E = 5, m = {trunk}, {dtype}, trunk states {states}: PEFT single LoRA, {said}"
            yield compare(name, ours, single, limit, rounds)


class Step:
    """One pass and backward of a stage over all batches."""

    def __init__(
        self,
        model: Mixture,
        stage: Stage,
        some: Sequence[Batch],
        cached: bool = False,
        dao: DAOSettings | None = None,
        **losses: Any,
    ) -> None:
        run = load_run()
        settings = run.losses.model_copy(update=losses)
        self.model, self.attention = model, AttentionSwitch(model.backbone)
        self.objective = Objective(
            stage, settings, dao or run.dao, model.labels, model.domain_expert_mask, 0, context=LossContext.of(model)
        )
        set_trainable(model.train(), stage, None)
        self.some = [self.batch(ids, mask, cached) for ids, mask in some]

    def look_at(self, batch: Batch) -> None:
        """Take a quarter of another batch, as training does, for DAO's virtual steps."""
        ids, mask = (values[: len(values) // 4] for values in batch)
        other = self.batch(ids, mask, cached=False)

        def held_out() -> tuple[MixtureOutput, dict[str, Tensor]]:
            with self.model.bank.route.preserved():
                return self.model(other["input_ids"], other["attention_mask"]), other

        self.objective.context.holdout = held_out

    def batch(self, ids: Tensor, mask: Tensor, cached: bool) -> dict[str, Tensor]:
        """Token ids and mask (B, T) with labels at random, and the trunk's states if they are to be known."""
        random = torch.Generator().manual_seed(0)
        task = torch.randint(len(self.model.domains), (len(ids),), generator=random)  # (B,)
        label = torch.randint(3, (len(ids),), generator=random)  # (B,)
        found = {
            "input_ids": ids,
            "attention_mask": mask,
            "task": task,
            "domain": task,
            "label": label,
            "score": label - 1.0,
        }
        found = {key: value.to(ids.device) for key, value in found.items()}
        return found | ({"trunk": self.model.encode_trunk(ids, mask)[0]} if cached else {})

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for batch in self.some:
            self.attention.select(batch["input_ids"].shape[1])
            self.objective.start_step()
            out = self.model(batch["input_ids"], batch["attention_mask"], trunk=batch.get("trunk"))
            self.objective(out, batch).backward()
            self.objective.finish_step()
            self.model.zero_grad()


class PeftStep:
    """The same of PEFT's single LoRA with a linear head, in fp32 or under autocast."""

    def __init__(self, some: Sequence[Batch], dtype: str) -> None:
        base = load_backbone(BackboneSettings(dtype="float32")).model
        self.model: PeftModel = get_peft_model(base, peft_config())
        self.model.train()
        self.device, self.mixed = base.device, dtype == "bfloat16"
        self.head, self.some = nn.Linear(384, 3).to(self.device), some

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for ids, mask in self.some:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
                shown = mask[..., None].float()  # (B, T, 1)
                logits = self.head((states.float() * shown).sum(1) / shown.sum(1))  # (B, K)
            labels = torch.arange(len(ids), device=self.device) % 3  # (B,)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            self.model.zero_grad()
            self.head.zero_grad()
