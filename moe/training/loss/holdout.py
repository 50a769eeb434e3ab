"""Held-out training batches for DAO's `validation` objective, run through the model in its current state."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from datasets import Dataset
from torch.utils.data import DataLoader

from moe.data.collator import Batch, Collate, model_inputs
from moe.data.sampler import DomainBatchSampler
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.outputs import MixtureOutput


class HoldoutSampler:
    """Draws batches of training rows in a separate order and runs the model on them.

    The routing state of the current training step is restored after each run.

    Args:
        model: the model in training.
        mode: how it routes.
        rows: training rows.
        batches: row indices of each batch; a quarter of a step's rows is enough for a gradient direction, and cheap.
        collate: makes batches of rows.
    """

    def __init__(
        self, model: Mixture, mode: RoutingMode, rows: Dataset, batches: DomainBatchSampler, collate: Collate
    ) -> None:
        self.model, self.mode, self.batches, self.drawn = model, mode, batches, 0
        self.loader: DataLoader[Any] = DataLoader(
            rows,
            batch_sampler=batches,
            collate_fn=collate,
            generator=torch.Generator(),  # separate, so that drawing a batch leaves the training loop's numbers alone
        )
        self.stream = self._endless()

    def __call__(self) -> tuple[MixtureOutput, Batch]:
        """Return the model's output on the next batch, and the batch."""
        device = self.model.domain_expert_mask.device
        self.drawn += 1
        batch = {name: values.to(device) for name, values in next(self.stream).items()}
        with self.model.bank.route.preserved():
            output = self.model(**model_inputs(batch), mode=self.mode)
        return output, batch

    def skip_to(self, drawn: int) -> None:
        """Continue as if `drawn` batches had been drawn."""
        self.drawn, self.stream = drawn, self._endless(*divmod(drawn, len(self.batches)))

    def _endless(self, epoch: int = 0, skipped: int = 0) -> Iterator[Batch]:
        while True:
            self.batches.set_epoch(epoch)
            yield from islice(self.loader, skipped, None)
            epoch, skipped = epoch + 1, 0
