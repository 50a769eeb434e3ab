"""Averages of a stage's trainable weights over its steps, which are evaluated and saved in place of the last ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from experts.safetensors_io import load_tensors, save_tensors
from moe.config.stages import StageSettings

AVERAGES, COUNT = "averages.safetensors", "count"


class WeightAverage(TrainerCallback):
    """An exponential moving average (EMA), or the mean of the last steps (SWA, Izmailov et al. 2018).

    The formulas are torch's. Its `AveragedModel` would copy the frozen backbone, too, and knows no checkpoints.

    Args:
        model: whose trainable parameters are averaged.
        settings: of the stage; without `average` nothing is averaged.
        steps: optimizer steps of the stage.

    Attributes:
        averages: average by name of the parameter; empty before the first averaged step.
        count: number of steps averaged.
    """

    def __init__(self, model: nn.Module, settings: StageSettings, steps: int) -> None:
        self.parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}
        self.kind = settings.average
        self.first = int(settings.swa_start * steps) if self.kind == "swa" else 0
        self._update = get_swa_multi_avg_fn() if self.kind == "swa" else get_ema_multi_avg_fn(settings.ema_decay)
        self.averages: dict[str, Tensor] = {}
        self.count = 0

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Include the weights after a step."""
        if self.kind == "none" or state.global_step < self.first:
            return
        current = {name: parameter.detach() for name, parameter in self.parameters.items()}
        if self.averages:
            self._update(list(self.averages.values()), list(current.values()), self.count)
        else:
            self.averages = {name: tensor.clone() for name, tensor in current.items()}
        self.count += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Give the parameters their averages inside the context."""
        current = {name: self.parameters[name].detach().clone() for name in self.averages}
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(current)

    def save(self, checkpoint: Path) -> None:
        """Write the averages to a checkpoint; nothing if there are none yet."""
        if self.averages:
            save_tensors(checkpoint / AVERAGES, self.averages | {COUNT: torch.tensor(self.count)})

    def load(self, checkpoint: Path, apply: bool = False) -> None:
        """Restore the averages of a checkpoint, if it has any.

        Args:
            apply: give the parameters their averages, for good.
        """
        file = checkpoint / AVERAGES
        tensors = load_tensors(file) if file.is_file() else {}
        self.count = int(tensors.pop(COUNT, 0))
        self.averages = {name: tensors[name].to(each.device) for name, each in self.parameters.items() if tensors}
        if apply:
            self._assign(self.averages)

    @torch.no_grad()
    def _assign(self, tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            self.parameters[name].copy_(tensor)
