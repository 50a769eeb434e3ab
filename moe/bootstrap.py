"""How sure a figure is: bootstrap intervals of one model's figures and of the difference of two, and McNemar's test.

The figures themselves are `moe.evaluation.metrics`'; which rows and which models are compared is left to the callers.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

DRAWS, LEVEL, BLOCK = 10_000, 0.95, 2_000_000  # BLOCK bounds the cells that are drawn at once
METRICS = ("accuracy", "macro_f1", "weighted_f1")
Draws = dict[str, np.ndarray]
BINS = 15


@dataclass(frozen=True)
class Interval:
    """A figure and the ends of its interval, in the figure's own unit."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether 0 lies in it: a difference of which nothing can be said."""
        return self.low <= 0.0 <= self.high

    @property
    def bounds(self) -> list[float]:
        """Its two ends, as JSON takes them."""
        return [self.low, self.high]


@dataclass(frozen=True)
class TaskPredictions:
    """What one model said of one task's rows, or what it said trained from several seeds.

    Args:
        true: (N,), the index of each row's label, N ≥ 1.
        said: (S, N), the index that each seed's model gave; `classes` stands for a label outside the task's.
        classes: how many labels the task has (K).
    """

    true: np.ndarray
    predicted: np.ndarray
    classes: int

    @classmethod
    def from_labels(cls, true: Sequence[str], said: Sequence[str], labels: Sequence[str]) -> "TaskPredictions":
        """From label names (N,)."""
        index = {name: i for i, name in enumerate(labels)}
        rows = [np.array([index.get(name, len(labels)) for name in names]) for names in (true, said)]
        return cls(rows[0], rows[1][None], len(labels))

    @classmethod
    def from_correct(cls, right: Sequence[Sequence[int]]) -> "TaskPredictions":
        """From what was right (S, N), for accuracy alone."""
        said = 1 - np.asarray(right)
        return cls(np.zeros(said.shape[1], dtype=int), said, 1)


def bootstrap_intervals(tasks: Sequence[TaskPredictions], level: float = LEVEL) -> dict[str, Interval]:
    """One model's accuracy, macro-F1 and weighted F1, averaged over tasks and seeds, with their intervals.

    Rows are drawn anew inside each task, the same rows for every seed (Efron, 1979; percentile intervals). So an
    interval tells how much hangs on these test rows, not on the seeds.

    Args:
        level: share of the draws inside, 0 to 1; more is wider.

    Returns:
        figures in [0, 1].
    """
    return _ends(_averaged([_figures([one]) for one in tasks]), _averaged([_drawn([one]) for one in tasks]), level)


def interval_fields(tasks: Sequence[TaskPredictions]) -> dict[str, list[float]]:
    """`bootstrap_intervals` as reports keep them: `accuracy_interval`: [low, high], and so on."""
    return {f"{name}_interval": one.bounds for name, one in bootstrap_intervals(tasks).items()}


def bootstrap_differences(ours: Sequence[TaskPredictions], theirs: Sequence[TaskPredictions], level: float = LEVEL) -> dict[str, Interval]:
    """Our figures less theirs, paired by row, averaged over tasks and seeds, with their intervals.

    Args:
        ours, theirs: answers to the same rows, task by task.

    Returns:
        differences in [-1, 1]; one whose interval holds 0 is none.
    """
    both = list(zip(ours, theirs, strict=True))
    assert all(np.array_equal(a.true, b.true) for a, b in both), "pairs need the same rows"
    return _ends(_averaged([_figures(pair) for pair in both]), _averaged([_drawn(pair) for pair in both]), level)


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """McNemar's exact test (1947): the probability of a split of the rows that one alone got right as uneven as this.

    Args:
        ours, theirs: (N,), whether each row was right.

    Returns:
        the two-sided p; 1 where the two are right on the same rows.
    """
    from scipy.stats import binomtest  # slow to import, and answering texts does without

    ours, theirs = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    one, other = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(one, one + other).pvalue) if one + other else 1.0


def wilson_interval(right: int, rows: int, level: float = LEVEL) -> Interval:
    """A share of rows (at least 1) with Wilson's interval, which is not empty where all or none are right."""
    from scipy.stats import binomtest  # as above

    found = binomtest(right, rows).proportion_ci(level, method="wilson")
    return Interval(right / rows, float(found.low), float(found.high))


def _ends(values: Mapping[str, np.ndarray], draws: Draws, level: float) -> dict[str, Interval]:
    edges = (50 * (1 - level), 50 * (1 + level))
    whole = {name: [float(values[name][0]), *np.percentile(draws[name], edges).tolist()] for name in METRICS}
    return {name: Interval(*(round(one, 12) for one in ends)) for name, ends in whole.items()}  # an end of 0 is 0


def _averaged(parts: Sequence[Draws]) -> Draws:
    return {name: np.mean([part[name] for part in parts], axis=0) for name in METRICS}


def _figures(sides: Sequence[TaskPredictions]) -> Draws:
    """The figures of the rows as they are, (1,) each; of two sides the first's less the second's."""
    patterns, counts = _cells(sides)
    return _of_counts(counts[None], patterns, sides)


def _drawn(sides: Sequence[TaskPredictions]) -> Draws:
    """The same for every draw, (DRAWS,) each; alike in every call on the same rows."""
    patterns, counts = _cells(sides)
    parts = [_of_counts(some, patterns, sides) for some in _redrawn(counts)]
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _cells(sides: Sequence[TaskPredictions]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows of (true, said, said, …) (C, 1 + S) and how often each is there (C,)."""
    rows = np.concatenate([sides[0].true[None], *(one.predicted for one in sides)])  # (1 + S, N)
    return np.unique(rows.T, axis=0, return_counts=True)


def _redrawn(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Counts of N rows drawn with replacement, block by block (draws, C).

    Rows of one cell are alike, so drawing rows is drawing a multinomial over the cells: exact, and fast.
    """
    random = np.random.default_rng([0, *counts.tolist()])  # tasks differ in their draws, the same rows never
    block = max(1, BLOCK // len(counts))
    for start in range(0, DRAWS, block):
        yield random.multinomial(counts.sum(), counts / counts.sum(), min(block, DRAWS - start))


def _of_counts(counts: np.ndarray, patterns: np.ndarray, sides: Sequence[TaskPredictions]) -> Draws:
    """Figures of counts (draws, C) of the cells (C, 1 + S): means over a side's seeds; of two sides the difference."""
    ends = np.cumsum([1, *(len(one.predicted) for one in sides)])
    found = [
        _averaged([_one(counts, patterns[:, 0], patterns[:, s], sides[0].classes) for s in range(start, end)])
        for start, end in pairwise(ends)
    ]
    return found[0] if len(found) == 1 else {name: found[0][name] - found[1][name] for name in METRICS}


def _one(counts: np.ndarray, true: np.ndarray, said: np.ndarray, classes: int) -> Draws:
    """Accuracy, macro-F1 and weighted F1 (draws,) of counts (draws, C) whose cells mean (true, said)."""
    names = np.arange(classes)
    is_true, is_said = true[:, None] == names, said[:, None] == names  # (C, K)
    weights = counts.astype(np.float64)  # (draws, C)
    support, called, hits = (weights @ one for one in (is_true, is_said, is_true & is_said))  # (draws, K)
    f1 = 2 * hits / np.maximum(support + called, 1)  # (draws, K)
    rows = weights.sum(1)  # (draws,)
    return {
        "accuracy": hits.sum(1) / rows,
        "macro_f1": f1.mean(1),
        "weighted_f1": (f1 * support).sum(1) / rows,
    }


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    """The bin (N,), 0 to 14, of each confidence (N,); a bin holds its upper edge."""
    return np.ceil(confidence * BINS).astype(int).clip(1, BINS) - 1
