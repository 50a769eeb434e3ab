"""How sure a figure is: bootstrap intervals of mean accuracies, and of the difference between two models.

Test rows are drawn anew inside each task; seeds, which share their test rows, are averaged row by row before. So an
interval tells how much hangs on these rows, not on the seeds.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import bootstrap

Results = Sequence[dict[str, Any]]


def by_row(results: Results, task: str) -> np.ndarray:
    """Share of seeds that were right, row by row (N,)."""
    return np.mean([one["tasks"][task]["right"] for one in results], axis=0)


def accuracy(results: Results, tasks: Sequence[str]) -> tuple[float, float, float]:
    """Mean accuracy over tasks with its 95 % interval: (mean, low, high)."""
    return _mean([by_row(results, task) for task in tasks])


def difference(ours: Results, theirs: Results, tasks: Sequence[str]) -> tuple[float, float, float]:
    """Mean difference of accuracy on the seeds that both have, paired by row: (mean, low, high)."""
    seeds = {one["seed"] for one in ours} & {one["seed"] for one in theirs}
    mine, other = ([one for one in results if one["seed"] in seeds] for results in (ours, theirs))
    return _mean([by_row(mine, task) - by_row(other, task) for task in tasks])


def _mean(rows: Sequence[np.ndarray]) -> tuple[float, float, float]:
    def mean(*some: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([one.mean(axis=axis) for one in some], axis=0)

    found = bootstrap(rows, mean, n_resamples=2000, batch=100, method="percentile", rng=np.random.default_rng(0))
    return float(mean(*rows)), float(found.confidence_interval.low), float(found.confidence_interval.high)
