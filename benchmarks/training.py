"""Speed of training steps: the joint stage against PEFT's single LoRA, constant loss weights and the warm start."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from paired_timing import Batch, Ratio, build_untrained, compare, peft_config, step_floor, tokenize_batches
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from moe.config.run import load_run
from moe.config.stages import JOINT, WARMUP, Stage
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_ops import AttentionSwitch
from moe.model.mixture import Mixture
from moe.model.outputs import MixtureOutput
from moe.training.loss.global_batch import LossContext
from moe.training.loss.holdout import HoldoutSampler
from moe.training.loss.objective import Objective
from moe.training.trainer import set_trainable
from router.registry import DAOSettings

LIMITS = {
    **{("bfloat16", 1): "≤ 0.9", ("bfloat16", 3): "≤ 0.6"},
    **{("float32", 0): "≤ 0.75", ("float32", 1): "≤ 0.6", ("float32", 3): "≤ 0.5"},
}
"""By PEFT's precision and depth of the trunk."""


def measure_training(texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """Compare a joint step with PEFT's single LoRA, one pass per expert, constant weights, and a warm-start step.

    Args:
        dtype: of our frozen backbone; with bfloat16, PEFT is measured under autocast and in fp32.
    """
    batches = tokenize_batches(load_backbone(BackboneSettings()), texts)
    for peft_dtype in dict.fromkeys((dtype, "float32")):
        yield from compare_peft(batches, dtype, peft_dtype, rounds)
    joint = TrainingStep(build_untrained(5, 16, 1, dtype), JOINT, batches)
    cached = TrainingStep(build_untrained(5, 16, 1, dtype), JOINT, batches, cached=True)
    single = PeftStep(batches, dtype)
    for states, ours in (("computed", joint), ("cached", cached)):
        name = f"joint step, E = 5, m = 1, {dtype}, trunk states {states}: one pass per expert"
        yield compare(name, ours, repeat(single, 5), "≤ 0.2", rounds)
    constant = TrainingStep(build_untrained(5, 16, 1, dtype), JOINT, batches, inner="constant", outer="constant")
    yield compare(f"joint step, {dtype}, DAO at two levels: constants", joint, constant, "≤ 1.02", rounds)
    everywhere = TrainingStep(build_untrained(5, 16, 1, dtype), JOINT, batches, measured="parameters")
    name = f"joint step, {dtype}, DAO measured at all experts' weights: constants"
    yield compare(name, everywhere, constant, "–", rounds)
    validated = TrainingStep(
        build_untrained(5, 16, 1, dtype), JOINT, batches[:1], dao=DAOSettings(objective="validation")
    )
    validated.set_holdout(batches[min(1, len(batches) - 1)])  # short texts may fit into one batch
    plain = TrainingStep(build_untrained(5, 16, 1, dtype), JOINT, batches[:1], inner="constant", outer="constant")
    name = f"ten joint steps, {dtype}, DAO with a held-out batch every tenth step: constants"
    yield compare(name, repeat(validated, 10), repeat(plain, 10), "≤ 1.1", rounds)
    warm = TrainingStep(build_untrained(5, 16, 1, dtype), WARMUP, batches)
    yield compare(f"warm-start step, {dtype}: joint step", warm, joint, "≤ 0.6", rounds)


def compare_peft(batches: Sequence[Batch], dtype: str, peft_dtype: str, rounds: int) -> Iterator[Ratio]:
    """Compare a joint step, with cached and with computed trunk states, with PEFT's in one precision."""
    single = PeftStep(batches, peft_dtype)
    precision = "fp32" if peft_dtype == "float32" else "bf16 autocast"
    for trunk in (0, 1, 3):
        for cached in (True, False) if trunk else (False,):
            ours = TrainingStep(build_untrained(5, 16, trunk, dtype), JOINT, batches, cached=cached)
            limit = LIMITS.get((peft_dtype, trunk), "–") if cached or not trunk else "–"
            states = "cached" if cached else "computed"
            name = f"joint step, E = 5, m = {trunk}, {dtype}, trunk states {states}: PEFT single LoRA, {precision}"
            yield compare(name, ours, single, limit, rounds, step_floor(5, 16, trunk, cached=cached))


def repeat(step: Callable[[], None], times: int) -> Callable[[], None]:
    """Return a function that calls a step several times."""

    def run() -> None:
        for _ in range(times):
            step()

    return run


class TrainingStep:
    """Forward and backward pass of a stage over all batches, without an optimizer.

    Args:
        stage: its losses and trainable parameters.
        cached: take the trunk's states as given instead of computing them.
        dao: settings of DAO; those of the default run if None.
        losses: overrides of the default run's loss settings.
    """

    def __init__(
        self,
        model: Mixture,
        stage: Stage,
        batches: Sequence[Batch],
        cached: bool = False,
        dao: DAOSettings | None = None,
        **losses: Any,
    ) -> None:
        run = load_run()
        self.model, self.attention = model, AttentionSwitch(model.backbone)
        self.objective = Objective(
            stage,
            settings=run.losses.model_copy(update=losses),
            dao=dao or run.dao,
            labels=model.labels,
            domain_expert_mask=model.domain_expert_mask,
            seed=0,
            context=LossContext.of(model),
        )
        self.mode = set_trainable(model.train(), stage, None)
        self.batches = [self.labelled(ids, mask, cached) for ids, mask in batches]

    def set_holdout(self, batch: Batch) -> None:
        """Use a quarter of a batch, as training does, as the held-out rows of DAO's look-ahead."""
        ids, mask = (values[: len(values) // 4] for values in batch)
        rows = self.labelled(ids, mask, cached=False)

        def run_holdout() -> tuple[MixtureOutput, dict[str, Tensor]]:
            with self.model.bank.route.preserved():
                return self.model(rows["input_ids"], rows["attention_mask"], mode=self.mode), rows

        self.objective.context.holdout = cast(HoldoutSampler, run_holdout)  # the loss only calls it

    def labelled(self, ids: Tensor, mask: Tensor, cached: bool) -> dict[str, Tensor]:
        """Return a batch (B, T) with random labels, and with the trunk's states if they are to be cached."""
        random = torch.Generator().manual_seed(0)
        task = torch.randint(len(self.model.domains), (len(ids),), generator=random)  # (B,)
        label = torch.randint(3, (len(ids),), generator=random)  # (B,)
        batch = {
            "input_ids": ids,
            "attention_mask": mask,
            "task": task,
            "domain": task,
            "label": label,
            "score": label - 1.0,
        }
        batch = {key: value.to(ids.device) for key, value in batch.items()}
        return batch | ({"trunk": self.model.encode_trunk(ids, mask)[0]} if cached else {})

    def __call__(self) -> None:
        """Run forward and backward on all batches."""
        for batch in self.batches:
            self.attention.select(batch["input_ids"].shape[1])
            self.objective.start_step()
            out = self.model(batch["input_ids"], batch["attention_mask"], trunk=batch.get("trunk"), mode=self.mode)
            self.objective(out, batch).backward()
            self.objective.finish_step()
            self.model.zero_grad()


class PeftStep:
    """The same passes for PEFT's single LoRA with a linear head, in fp32 or under bfloat16 autocast.

    Args:
        settings: of the backbone; by default the shipped one in fp32.
        lora: by default that of `peft_config`.
    """

    def __init__(
        self,
        batches: Sequence[Batch],
        dtype: str,
        settings: BackboneSettings | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        base = load_backbone(settings or BackboneSettings(dtype="float32")).model
        self.model: PeftModel = get_peft_model(base, lora or peft_config())
        self.model.train()
        self.device, self.mixed = base.device, dtype == "bfloat16"
        self.head, self.batches = nn.Linear(base.config.hidden_size, 3).to(self.device), batches

    def __call__(self) -> None:
        """Run forward and backward on all batches."""
        for ids, mask in self.batches:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.mixed):
                states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
                weights = mask[..., None].float()  # (B, T, 1)
                logits = self.head((states.float() * weights).sum(1) / weights.sum(1))  # (B, K)
            labels = torch.arange(len(ids), device=self.device) % 3  # (B,)
            nn.functional.cross_entropy(logits.float(), labels).backward()
            self.model.zero_grad()
            self.head.zero_grad()
