"""Steps without a finite loss or gradient: passed over and told, until there are too many in a row.

Which losses there are is `moe.training.objective`'s; the loop that asks, `moe.training.trainer`.
"""

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
    """A batch whose loss is not finite; nothing goes back from it."""


class NonFiniteGuard(TrainerCallback):
    """Watches losses and gradients.

    Args:
        title: the stage's, for people.
        most: steps in a row that may be passed over.
    """

    def __init__(self, title: str, most: int) -> None:
        self.title, self.most = title, most
        self.found: str | None = None
        self.in_a_row = self.steps = 0

    def check(self, total: torch.Tensor, losses: Mapping[str, float]) -> None:
        """Note the first of a batch's losses that is not finite.

        Raises:
            PassedOver: when their sum is not finite, so that nothing can go back from it.
        """
        sum_ = float(total.detach())
        odd = [f"{name} {value}" for name, value in {**losses, "loss": sum_}.items() if not math.isfinite(value)]
        if odd:
            self.found = odd[0]
        if not math.isfinite(sum_):
            raise SkipStep

    def on_pre_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **_: Any,
    ) -> None:
        """Take away gradients that are not finite, so that the weights stay what they are."""
        assert model is not None
        if not torch.isfinite(gradient_norm(model.parameters())):
            self.found = self.found or "a gradient"
            model.zero_grad(set_to_none=True)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Count.

        Raises:
            Fault: when more steps in a row than may be were without finite numbers.
        """
        if self.found is None:
            self.in_a_row = 0
            return
        found, self.found = self.found, None
        self.in_a_row, self.steps = self.in_a_row + 1, self.steps + 1
        if self.in_a_row > self.most:
            raise Fault(
                "a finite loss and gradient",
                f"{found} at step {state.global_step} of {self.title}, {self.in_a_row} in a row",
                "lower the stage's lr and look for odd scores; the last checkpoint is whole, --resume takes it",
            )
        info(f"{self.title}: step {state.global_step} passed over, {found} is not finite")
