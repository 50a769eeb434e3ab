"""A guard that skips optimizer steps whose loss or gradient is not finite, and fails after too many in a row."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from moe.console import info
from moe.errors import Fault
from moe.training.fsdp import gradient_norm


class SkipStep(Exception):
    """The loss of a step is not finite, so its backward pass must not run."""


class NonFiniteGuard(TrainerCallback):
    """Skips optimizer steps whose loss or gradient is not finite; fails after more than `max_consecutive` in a row.

    Args:
        title: name of the stage, for messages.
        max_consecutive: number of consecutive steps that may be skipped.

    Attributes:
        cause: the first non-finite loss of the current step, or "a gradient"; None if all are finite.
        consecutive: number of steps skipped in a row.
        steps: number of steps skipped in all.
    """

    def __init__(self, title: str, max_consecutive: int) -> None:
        self.title, self.max_consecutive = title, max_consecutive
        self.cause: str | None = None
        self.consecutive = self.steps = 0

    def check(self, loss: torch.Tensor, losses: Mapping[str, float]) -> None:
        """Record the first of a step's losses that is not finite.

        Raises:
            SkipStep: if their sum is not finite.
        """
        total = float(loss.detach())
        nonfinite = [f"{name} {value}" for name, value in {**losses, "loss": total}.items() if not math.isfinite(value)]
        if nonfinite:
            self.cause = nonfinite[0]
        if not math.isfinite(total):
            raise SkipStep

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Discard gradients that are not finite, so that the weights do not change."""
        assert model is not None
        if not torch.isfinite(gradient_norm(model.parameters())):
            self.cause = self.cause or "a gradient"
            model.zero_grad(set_to_none=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count and report a skipped step.

        Raises:
            Fault: if more than `max_consecutive` steps in a row were skipped.
        """
        if self.cause is None:
            self.consecutive = 0
            return
        cause, self.cause = self.cause, None
        self.consecutive, self.steps = self.consecutive + 1, self.steps + 1
        if self.consecutive > self.max_consecutive:
            raise Fault(
                expected="a finite loss and gradient",
                found=f"{cause} at step {state.global_step} of {self.title}, {self.consecutive} steps in a row",
                remedy="lower the stage's lr and check the data for extreme scores, then resume from the last "
                "checkpoint with --resume",
            )
        info(f"{self.title}: skipped step {state.global_step}, because {cause} is not finite")
