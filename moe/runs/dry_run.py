"""A stage tried in small: a few of its steps that stand for all, a few of its validation rows, and what that took.

Who asks for it, and what is foretold from it, is `moe.training.cost_estimate`'s.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler

from moe.data.sampler import DomainBatchSampler


class BatchSubset(Sampler[list[int]]):
    """A few of an epoch's batches that stand for all: first the dearest, then others, spread evenly over their costs.

    Args:
        whole: the epoch's.
        count: how many, if it has as many.
    """

    def __init__(self, whole: DomainBatchSampler, count: int) -> None:
        batches = sorted(whole, key=lambda rows: len(rows) * int(whole.lengths[rows].max()))
        others = range(count - 1)
        places = [int((i + 0.5) / len(others) * len(batches)) for i in others]
        self.batches = [batches[-1], *(batches[i] for i in places)][: len(batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


@dataclass
class DryRunStats:
    """What was seen of one stage.

    Args:
        stage: its row of the table.
        name: the expert that learned, or the stage's folder.
        weights: of the whole model, by number and by bytes.
        learned: how many of them learn.
        steps: that the whole stage takes.
        evaluations: that it makes.
        share: of its validation rows that an evaluation here saw.
        cached: bytes of the trunk's states that the whole stage keeps on disk, and maps.
        evaluating: seconds of each evaluation here.
    """

    stage: str
    name: str
    weights: tuple[int, int]
    learned: int
    steps: int
    evaluations: int
    share: float
    cached: int = 0
    evaluating: list[float] = field(default_factory=list)

    def timed(self, evaluate: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
        """The same, its seconds noted."""

        def run() -> dict[str, float]:
            start = time.perf_counter()
            found = evaluate()
            self.evaluating.append(time.perf_counter() - start)
            return found

        return run


@dataclass
class DryRun:
    """How much is tried of every stage of a run.

    Args:
        steps: of each stage; the first, which is the dearest, tells of memory, the others of time.
        rows: of each validation set.
        seen: the stages tried so far.
        cached: bytes of the trunk's states of the stage that comes.
    """

    steps: int = 9
    rows: int = 256
    seen: list[DryRunStats] = field(default_factory=list)
    cached: int = 0
    _all: int = 0
    _some: int = 0

    def some(self, rows: Dataset) -> Dataset:
        """A few of some validation rows, at equal distances."""
        count = min(self.rows, len(rows))
        self._all, self._some = self._all + len(rows), self._some + count
        return rows.select(np.linspace(0, len(rows) - 1, count).round().astype(int).tolist())

    def share(self) -> float:
        """Which share of validation rows `some` left since it was last asked."""
        share = self._some / self._all if self._all else 1.0
        self._all = self._some = 0
        return share


def model_size(model: nn.Module) -> tuple[int, int]:
    """All weights of a model, by number and by bytes; quantised ones count as the bytes that they are stored in."""
    every = [*model.parameters(), *model.buffers()]
    return sum(one.numel() for one in model.parameters()), sum(one.numel() * one.element_size() for one in every)
