"""Dry runs of stages: a few steps on representative batches, a few validation rows, and measurements of both."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset
from torch import nn
from torch.utils.data import Sampler

from moe.data.sampler import DomainBatchSampler


class BatchSubset(Sampler[list[int]]):
    """A few representative batches of an epoch: the most expensive one first, then others at even distances in cost.

    Args:
        sampler: gives the batches of the epoch.
        count: number of batches, if the epoch has as many.
    """

    def __init__(self, sampler: DomainBatchSampler, count: int) -> None:
        batches = sorted(sampler, key=lambda rows: len(rows) * int(sampler.lengths[rows].max()))
        others = range(count - 1)
        indices = [int((i + 0.5) / len(others) * len(batches)) for i in others]
        self.batches = [batches[-1], *(batches[i] for i in indices)][: len(batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)


@dataclass
class DryRunStats:
    """Measurements of one stage.

    Args:
        stage: name of the stage.
        name: the trained expert, or the stage's folder.
        model_size: parameters of the entire model, and their bytes.
        trainable: number of trainable parameters.
        steps: optimizer steps of the full stage.
        evaluations: evaluations of the full stage.
        row_share: fraction of the validation rows that an evaluation of the dry run used.
        cached_bytes: bytes of trunk states that the full stage caches on disk and maps into memory.
        evaluation_seconds: duration of each evaluation of the dry run.
    """

    stage: str
    name: str
    model_size: tuple[int, int]
    trainable: int
    steps: int
    evaluations: int
    row_share: float
    cached_bytes: int = 0
    evaluation_seconds: list[float] = field(default_factory=list)

    def timed(self, evaluate: Callable[[], dict[str, float]]) -> Callable[[], dict[str, float]]:
        """Return the evaluation function, with its duration recorded in `evaluation_seconds`."""

        def run() -> dict[str, float]:
            start = time.perf_counter()
            metrics = evaluate()
            self.evaluation_seconds.append(time.perf_counter() - start)
            return metrics

        return run


@dataclass
class DryRun:
    """Size and results of a dry run of all stages.

    Args:
        steps: optimizer steps per stage; the first batch, the most expensive one, gives the peak memory, the others
            the time.
        rows: rows of each validation set.
        stages: measurements of the stages so far.
        cached_bytes: bytes of cached trunk states of the next stage.
    """

    steps: int = 9
    rows: int = 256
    stages: list[DryRunStats] = field(default_factory=list)
    cached_bytes: int = 0
    _total_rows: int = 0
    _used_rows: int = 0

    def subset(self, rows: Dataset) -> Dataset:
        """Return a few validation rows at equal distances, and count them for `pop_row_share`."""
        count = min(self.rows, len(rows))
        self._total_rows, self._used_rows = self._total_rows + len(rows), self._used_rows + count
        return rows.select(np.linspace(0, len(rows) - 1, count).round().astype(int).tolist())

    def pop_row_share(self) -> float:
        """Return the fraction of validation rows that `subset` kept since the last call."""
        share = self._used_rows / self._total_rows if self._total_rows else 1.0
        self._total_rows = self._used_rows = 0
        return share


def model_size(model: nn.Module) -> tuple[int, int]:
    """Return the number of a model's parameters, and the bytes of parameters and buffers; quantized ones as stored."""
    tensors = [*model.parameters(), *model.buffers()]
    count = sum(parameter.numel() for parameter in model.parameters())
    return count, sum(tensor.numel() * tensor.element_size() for tensor in tensors)
