"""Held-out training batches for DAO's `validation` objective: other rows, through the model as it then stands.

What is learned from them is `router.dao`'s; which loss it is, `moe.training.objective`'s.
"""

from collections.abc import Iterator
from itertools import islice

import torch
from torch.utils.data import DataLoader

from moe.data.collator import Batch, Collate, model_inputs
from moe.data.sampler import DomainBatchSampler
from moe.model.mixture import Mixture, MixtureOutput


class HoldoutSampler:
    """Draws batches of training rows in an order of its own and runs them, leaving the route as the step had it.

    Args:
        model: the one in training.
        rows: training rows.
        batches: which rows meet; a quarter of a step's is enough for a direction, and cheap.
    """

    def __init__(self, model: Mixture, rows: object, batches: DomainBatchSampler, collate: Collate) -> None:
        self.model, self.batches, self.drawn = model, batches, 0
        self.loader = DataLoader(
            rows,  # type: ignore[arg-type, var-annotated]
            batch_sampler=batches,
            collate_fn=collate,
            generator=torch.Generator(),  # of its own: the loop's numbers do not hang on when this began
        )
        self.stream = self._endless()

    def __call__(self) -> tuple[MixtureOutput, Batch]:
        """The model's output on the next batch, and the batch."""
        device = self.model.domain_expert_mask.device
        self.drawn += 1
        batch = {name: values.to(device) for name, values in next(self.stream).items()}
        with self.model.bank.route.preserved():
            out = self.model(**model_inputs(batch))
        return out, batch

    def skip_to(self, drawn: int) -> None:
        """Go on as if so many batches had been drawn."""
        self.drawn, self.stream = drawn, self._endless(*divmod(drawn, len(self.batches)))

    def _endless(self, epoch: int = 0, skipped: int = 0) -> Iterator[Batch]:
        while True:
            self.batches.set_epoch(epoch)
            yield from islice(self.loader, skipped, None)
            epoch, skipped = epoch + 1, 0
