"""Uncertainty of metrics: bootstrap intervals, paired differences of two models, McNemar's test, Wilson's interval."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from experts.domain import CLASSES, Kind
from moe.kinds.registry import task_kind

DRAWS, LEVEL, BLOCK = 10_000, 0.95, 2_000_000  # BLOCK bounds the cells that are drawn at once
METRICS = ("accuracy", "macro_f1", "weighted_f1")
MetricValues = dict[str, np.ndarray]
BINS = 15


@dataclass(frozen=True)
class Interval:
    """A metric's value and the bounds of its interval, in the metric's unit."""

    value: float
    low: float
    high: float

    @property
    def contains_zero(self) -> bool:
        """Whether 0 lies in the interval; a difference is then not significant."""
        return self.low <= 0.0 <= self.high

    @property
    def bounds(self) -> list[float]:
        """The bounds [low, high], as JSON reports hold them."""
        return [self.low, self.high]


@dataclass(frozen=True)
class TaskPredictions:
    """True labels and predictions for the rows of one task, by one model or by one model trained with several seeds.

    Args:
        true: (N,), index of each row's label, N ≥ 1; of a multi-label task the sum of 2^k over its labels' indices k.
        predicted: (S, N), the same of what the model of each seed predicts; `classes` stands for a label outside the
            task's.
        classes: number of labels of the task (K).
        sets: whether the rows are those of a multi-label task.
    """

    true: np.ndarray
    predicted: np.ndarray
    classes: int
    sets: bool = False

    @classmethod
    def from_labels(
        cls, true: Sequence[str], predicted: Sequence[str], labels: Sequence[str], kind: Kind = CLASSES
    ) -> "TaskPredictions":
        """Predictions of one model, from answers as text (N,)."""
        own = task_kind(kind)
        index = {name: i for i, name in enumerate(labels)}
        rows = [
            np.array([own.encode(index.get(name, len(labels)) for name in own.split(answer)) for answer in answers])
            for answers in (true, predicted)
        ]
        return cls(rows[0], rows[1][None], len(labels), own.is_set)

    @classmethod
    def from_correct(cls, correct: Sequence[Sequence[int]]) -> "TaskPredictions":
        """From whether each row is correct (S, N); only the accuracy is meaningful."""
        predicted = 1 - np.asarray(correct)
        return cls(np.zeros(predicted.shape[1], dtype=int), predicted, 1)


def bootstrap_intervals(
    tasks: Sequence[TaskPredictions], level: float = LEVEL, *, resample_seeds: bool = False
) -> dict[str, Interval]:
    """One model's accuracy, macro-F1 and weighted F1, averaged over tasks and seeds, with percentile intervals.

    Rows are resampled within each task, the same rows for every seed (Efron, 1979). So by default an interval states
    how much a metric depends on the test rows, not on the seeds.

    Args:
        level: share of the resamples inside the interval, 0 to 1; more is wider.
        resample_seeds: also resample seeds, the same ones for all tasks, so that the interval covers both.

    Returns:
        intervals by metric, in [0, 1].
    """
    values = _average([_metrics([task]) for task in tasks])
    return _percentiles(values, _average([_resampled_metrics([task], resample_seeds) for task in tasks]), level)


def interval_fields(tasks: Sequence[TaskPredictions]) -> dict[str, list[float]]:
    """Bounds of `bootstrap_intervals` under the names of JSON reports: `accuracy_interval`: [low, high], and so on."""
    return {f"{name}_interval": interval.bounds for name, interval in bootstrap_intervals(tasks).items()}


def bootstrap_differences(
    ours: Sequence[TaskPredictions],
    theirs: Sequence[TaskPredictions],
    level: float = LEVEL,
    *,
    resample_seeds: bool = False,
) -> dict[str, Interval]:
    """Our metrics minus theirs, paired by row, averaged over tasks and seeds, with percentile intervals.

    Args:
        ours: predictions of the first model, task by task.
        theirs: predictions of the second model for the same rows.
        level: as for `bootstrap_intervals`.
        resample_seeds: as for `bootstrap_intervals`; both models need the same seeds, in the same order.

    Returns:
        differences by metric, in [-1, 1]; one whose interval contains 0 is not significant.
    """
    pairs = list(zip(ours, theirs, strict=True))
    assert all(np.array_equal(a.true, b.true) for a, b in pairs), "pairs need the same rows"
    values = _average([_metrics(pair) for pair in pairs])
    return _percentiles(values, _average([_resampled_metrics(pair, resample_seeds) for pair in pairs]), level)


def resampled_difference(ours: TaskPredictions, theirs: TaskPredictions, metric: str) -> tuple[float, np.ndarray]:
    """Return our metric of a task minus theirs, paired by row, and the same for every resample (DRAWS,)."""
    assert np.array_equal(ours.true, theirs.true), "pairs need the same rows"
    pair = (ours, theirs)
    return float(_metrics(pair)[metric][0]), _resampled_metrics(pair, False)[metric]


def mean_difference(parts: Sequence[tuple[float, np.ndarray]]) -> Interval:
    """Mean over tasks of differences, with a percentile interval.

    Args:
        parts: for each task the difference, and the same for every resample (draws,), as many for all tasks.
    """
    draws = np.mean([own for _, own in parts], axis=0)  # (draws,)
    low, high = np.percentile(draws, (50 * (1 - LEVEL), 50 * (1 + LEVEL))).tolist()
    value = float(np.mean([own for own, _ in parts]))
    return Interval(*(round(number, 12) for number in (value, low, high)))  # a bound of 0 is exactly 0


def mcnemar(ours: np.ndarray, theirs: np.ndarray) -> float:
    """McNemar's exact test (1947) of two models on the same rows.

    The p-value is the probability, if both models are equally good, of a split at least this uneven of the rows that
    exactly one model predicts correctly.

    Args:
        ours: (N,), whether the first model is correct.
        theirs: (N,), whether the second model is correct.

    Returns:
        the two-sided p-value; 1 if both are correct on the same rows.
    """
    from scipy.stats import binomtest  # slow to import, and not needed for inference

    ours, theirs = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    return float(binomtest(only_ours, only_ours + only_theirs).pvalue) if only_ours + only_theirs else 1.0


def wilson_interval(correct: int, rows: int, level: float = LEVEL) -> Interval:
    """A proportion with Wilson's interval, which is not empty when all or none of the rows are correct.

    Args:
        correct: number of correct rows.
        rows: number of rows, at least 1.
    """
    from scipy.stats import binomtest  # as above

    interval = binomtest(correct, rows).proportion_ci(level, method="wilson")
    return Interval(correct / rows, float(interval.low), float(interval.high))


def _percentiles(values: Mapping[str, np.ndarray], resamples: MetricValues, level: float) -> dict[str, Interval]:
    percentages = (50 * (1 - level), 50 * (1 + level))
    numbers = {
        name: [float(values[name][0]), *np.percentile(resamples[name], percentages).tolist()] for name in METRICS
    }
    # Rounded, so that a bound of 0 is exactly 0.
    return {name: Interval(*(round(number, 12) for number in triple)) for name, triple in numbers.items()}


def _average(parts: Sequence[MetricValues], weights: np.ndarray | None = None) -> MetricValues:
    """Means of metrics (draws,) over parts, with weights (draws, parts) if given."""
    if weights is None:
        return {name: np.mean([part[name] for part in parts], axis=0) for name in METRICS}
    return {name: (np.stack([part[name] for part in parts], 1) * weights).sum(1) for name in METRICS}


def _metrics(sides: Sequence[TaskPredictions]) -> MetricValues:
    """Metrics of the actual rows, (1,) each; for two sides the first's minus the second's."""
    patterns, counts = _cells(sides)
    return _metrics_of_counts(counts[None], patterns, sides)


def _resampled_metrics(sides: Sequence[TaskPredictions], resample_seeds: bool) -> MetricValues:
    """The same for every resample, (DRAWS,) each; equal in every call with the same rows."""
    patterns, counts = _cells(sides)
    seeds = len(sides[0].predicted)
    drawn = None
    if resample_seeds:
        assert all(len(side.predicted) == seeds for side in sides), "pairs need the same seeds"
        drawn = np.random.default_rng(seeds).multinomial(seeds, [1 / seeds] * seeds, DRAWS) / seeds  # (DRAWS, S)
    parts, start = [], 0
    for block in _resample(counts):
        weights = None if drawn is None else drawn[start : start + len(block)]
        parts.append(_metrics_of_counts(block, patterns, sides, weights))
        start += len(block)
    return {name: np.concatenate([part[name] for part in parts]) for name in METRICS}


def _cells(sides: Sequence[TaskPredictions]) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows (true, predicted, predicted, …) (C, 1 + S), and the count of each (C,)."""
    rows = np.concatenate([sides[0].true[None], *(side.predicted for side in sides)])  # (1 + S, N)
    return np.unique(rows.T, axis=0, return_counts=True)


def _resample(counts: np.ndarray) -> Iterator[np.ndarray]:
    """Counts (draws, C) of N rows drawn with replacement, in blocks.

    The rows of a cell are interchangeable, so resampling rows is drawing from a multinomial over cells: exact and fast.
    """
    random = np.random.default_rng([0, *counts.tolist()])  # seeded by the rows: different tasks draw differently
    block = max(1, BLOCK // len(counts))
    for start in range(0, DRAWS, block):
        yield random.multinomial(counts.sum(), counts / counts.sum(), min(block, DRAWS - start))


def _metrics_of_counts(
    counts: np.ndarray, patterns: np.ndarray, sides: Sequence[TaskPredictions], weights: np.ndarray | None = None
) -> MetricValues:
    """Metrics from counts (draws, C) of cells (C, 1 + S): means over a side's seeds; for two sides the difference.

    Args:
        weights: of the seeds in the means (draws, S); equal ones by default.
    """
    true = patterns[:, 0]
    columns = np.cumsum([1, *(len(side.predicted) for side in sides)])
    means = [
        _average([_metrics_of_seed(counts, true, patterns[:, s], sides[0]) for s in range(start, end)], weights)
        for start, end in pairwise(columns)
    ]
    return means[0] if len(means) == 1 else {name: means[0][name] - means[1][name] for name in METRICS}


def _metrics_of_seed(
    counts: np.ndarray, true: np.ndarray, predicted: np.ndarray, task: TaskPredictions
) -> MetricValues:
    """Accuracy, macro-F1 and weighted F1 (draws,) from counts (draws, C) of cells (true, predicted) of a task."""
    is_true, is_predicted = (_indicator(answers, task) for answers in (true, predicted))  # (C, K) each
    weights = counts.astype(np.float64)  # (draws, C)
    support, predictions, hits = (
        weights @ indicator for indicator in (is_true, is_predicted, is_true & is_predicted)
    )  # (draws, K) each
    f1 = 2 * hits / np.maximum(support + predictions, 1)  # (draws, K)
    rows = weights.sum(1)  # (draws,)
    correct = weights @ (true == predicted) if task.sets else hits.sum(1)  # (draws,)
    labels = np.maximum(support.sum(1), 1) if task.sets else rows  # (draws,)
    return {
        "accuracy": correct / rows,
        "macro_f1": f1.mean(1),
        "weighted_f1": (f1 * support).sum(1) / labels,
    }


def _indicator(answers: np.ndarray, task: TaskPredictions) -> np.ndarray:
    """Which of the task's labels each answer (C,) has (C, K)."""
    names = np.arange(task.classes)
    indicator: np.ndarray = answers[:, None] >> names & 1 == 1 if task.sets else answers[:, None] == names
    return indicator


def confidence_bin(confidence: np.ndarray) -> np.ndarray:
    """Bin (N,), 0 to 14, of each confidence (N,); a bin includes its upper edge."""
    bins: np.ndarray = np.ceil(confidence * BINS).astype(int).clip(1, BINS) - 1
    return bins
