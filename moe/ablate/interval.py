"""How sure a difference is: a paired bootstrap over test rows, drawn anew inside each task.

It tells how much hangs on these rows, not on the seed that the mixture was trained from.
"""

from collections.abc import Mapping

import numpy as np
from scipy.stats import bootstrap

Right = Mapping[str, np.ndarray]
"""By task, whether each row was answered right (N,) bool, rows in one order for all models."""


def difference(ours: Right, theirs: Right) -> tuple[float, float, float]:
    """Mean over tasks of the difference of accuracy, ours − theirs, paired by row, with its 95 % interval.

    Returns:
        the difference, and the interval's low and high end, in [−1, 1].
    """
    rows = [ours[task].astype(float) - theirs[task].astype(float) for task in theirs]

    def mean(*some: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.mean([one.mean(axis=axis) for one in some], axis=0)

    if all(len(one) < 2 for one in rows):  # nothing to draw from
        only = float(mean(*rows))
        return only, only, only
    found = bootstrap(rows, mean, n_resamples=2000, batch=100, method="percentile", rng=np.random.default_rng(0))
    return float(mean(*rows)), float(found.confidence_interval.low), float(found.confidence_interval.high)
