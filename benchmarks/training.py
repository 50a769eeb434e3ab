"""Training steps: the mixture's beside PEFT's single LoRA, one pass an expert, constant weights, the warm start."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from pairs import Batch, Ratio, batches, compare, mixture, peft_config, texts
from peft import PeftModel, get_peft_model
from torch import Tensor, nn

from moe.backbone import BackboneSettings, load_backbone
from moe.config import load_run
from moe.model import Mixture
from moe.objective import Objective
from moe.stages import JOINT, WARMUP, Stage
from moe.train import choose_learners


def training(rounds: int) -> Iterator[Ratio]:
    """A joint step beside PEFT's single LoRA, one pass an expert, constant weights; a warm-start step beside it."""
    some = batches(load_backbone(BackboneSettings()), texts(200))
    single = PeftStep(some)
    for trunk, target in ((1, "≤ 0.9"), (3, "≤ 0.5")):
        ours = Step(mixture(5, 16, trunk), JOINT, some)
        yield compare(f"joint step, E = 5, m = {trunk}: PEFT single LoRA, fp32", ours, single, target, rounds)
        known = Step(mixture(5, 16, trunk), JOINT, some, cached=True)
        yield compare(
            f"joint step, cached trunk, E = 5, m = {trunk}: PEFT single LoRA, fp32", known, single, target, rounds
        )
    joint = Step(mixture(5, 16, 1), JOINT, some)
    yield compare(
        "joint step, E = 5, m = 1: one pass an expert", joint, lambda: [single() for _ in range(5)], "≤ 0.2", rounds
    )
    constant = Step(mixture(5, 16, 1), JOINT, some, inner="constant", outer="constant")
    yield compare("joint step, DAO in two levels: constants", joint, constant, "≤ 1.02", rounds)
    everywhere = Step(mixture(5, 16, 1), JOINT, some, measured="parameters")
    yield compare("joint step, DAO measured at all experts' weights: constants", everywhere, constant, "–", rounds)
    warm = Step(mixture(5, 16, 1), WARMUP, some)
    yield compare("warm-start step: joint step", warm, joint, "≤ 0.6", rounds)


class Step:
    """One pass and backward of a stage over all batches."""

    def __init__(
        self, model: Mixture, stage: Stage, some: Sequence[Batch], cached: bool = False, **losses: Any
    ) -> None:
        run = load_run()
        settings = run.losses.model_copy(update=losses)
        self.model, self.objective = (
            model,
            Objective(
                stage, settings, run.dao, model.labels, model.owners, 0, experts=model.expert_parameters().values
            ),
        )
        choose_learners(model.train(), stage, None)
        self.some = [self.batch(ids, mask, cached) for ids, mask in some]

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
        return found | ({"trunk": self.model.look(ids, mask)[0]} if cached else {})

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for batch in self.some:
            out = self.model(batch["input_ids"], batch["attention_mask"], trunk=batch.get("trunk"))
            self.objective(out, batch).backward()
            self.model.zero_grad()


class PeftStep:
    """The same of PEFT's single LoRA with a linear head."""

    def __init__(self, some: Sequence[Batch]) -> None:
        self.model: PeftModel = get_peft_model(load_backbone(BackboneSettings()).model, peft_config())
        self.model.train()
        self.head, self.some = nn.Linear(384, 3), some

    def __call__(self) -> None:
        """All batches, forward and backward."""
        for ids, mask in self.some:
            states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state  # (B, T, D)
            shown = mask[..., None].float()  # (B, T, 1)
            logits = self.head((states * shown).sum(1) / shown.sum(1))  # (B, K)
            nn.functional.cross_entropy(logits, torch.arange(len(ids)) % 3).backward()
            self.model.zero_grad()
            self.head.zero_grad()
