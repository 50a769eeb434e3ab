"""Metrics of classification, of scores and of calibration, as functions of arrays."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import log_loss, r2_score

from experts.domain import CLASSES, Kind
from moe.bootstrap import BINS, LEVEL, TaskPredictions, bootstrap_intervals, confidence_bin
from moe.kinds.registry import task_kind
from moe.results.base import Bounds
from moe.results.calibration import CalibrationMetrics
from moe.results.metrics import LabelMetrics, ScoreMetrics

SCORE_DRAWS, SCORE_BLOCK = 1_000, 2_000_000
"""Resamples for an interval of a score metric or of a multi-label one, and the most rows that are drawn at once."""
SCORE_METRICS = {
    "mse": "MSE",
    "mae": "MAE",
    "ccc": "CCC",
    "pearson": "Pearson",
    "spearman": "Spearman",
    "cosine": "cosine",
}
"""Metrics of polarity scores in the order of tables, with their titles."""


def classification(
    true: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    kind: Kind = CLASSES,
    probabilities: np.ndarray | None = None,
) -> LabelMetrics:
    """Metrics of answers, without intervals.

    Args:
        true: label names (N,), N ≥ 1; of a multi-label task all labels of a row with `;` between them.
        predicted: the same of predictions (N,); a name outside `labels` is an error.
        labels: the task's labels, in order.
        kind: kind of the task.
        probabilities: of the labels (N, K), for the ranking metric of a multi-label task.
    """
    return task_kind(kind).metrics(true, predicted, labels, probabilities)


def label_metrics(
    true: Sequence[str],
    predicted: Sequence[str],
    labels: Sequence[str],
    kind: Kind = CLASSES,
    probabilities: np.ndarray | None = None,
) -> LabelMetrics:
    """`classification` with intervals."""
    predictions = TaskPredictions.from_labels(true, predicted, labels, kind)
    intervals = metric_intervals([predictions])
    if predictions.sets:
        intervals |= _set_intervals(predictions, probabilities)
    return classification(true, predicted, labels, kind, probabilities).model_copy(update=intervals)


def metric_intervals(tasks: Sequence[TaskPredictions]) -> dict[str, Bounds]:
    """Intervals of `bootstrap_intervals` by the names of their fields, `accuracy_interval` and so on."""
    return {f"{name}_interval": (its.low, its.high) for name, its in bootstrap_intervals(tasks).items()}


def _set_intervals(predictions: TaskPredictions, probabilities: np.ndarray | None) -> dict[str, Bounds]:
    """Intervals over rows of the metrics that only a multi-label task has.

    Args:
        predictions: of one model, N rows.
        probabilities: of the labels (N, K); None leaves out that of the ranking metric.
    """
    members, codes = task_kind("multi_label").members, (predictions.true, predictions.predicted[0])
    is_true, is_predicted = (members(own, predictions.classes) for own in codes)  # (N, K) each
    hits, sizes = (is_true & is_predicted).sum(1), is_true.sum(1) + is_predicted.sum(1)  # (N,) each
    ranking = None if probabilities is None else ranking_precisions(is_true, probabilities)  # (N,)
    draws: dict[str, list[np.ndarray]] = {"micro_f1": [], "lrap": []}
    for rows in _resampled_rows(len(hits)):
        draws["micro_f1"].append(2 * hits[rows].sum(1) / np.maximum(sizes[rows].sum(1), 1))  # (draws,)
        if ranking is not None:
            draws["lrap"].append(ranking[rows].mean(1))  # (draws,)
    intervals = {f"{name}_interval": _percentiles(np.concatenate(parts)) for name, parts in draws.items() if parts}
    return {name: bounds for name, bounds in intervals.items() if bounds is not None}


def ranking_precisions(is_true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Label ranking average precision of each row, whose mean is `label_ranking_average_precision_score`.

    Args:
        is_true: which labels each row has (N, K).
        probabilities: of the labels (N, K).

    Returns:
        (N,), above 0 to 1; 1 for a row without labels.
    """
    sums = np.zeros(len(is_true))  # (N,)
    for label in range(is_true.shape[1]):
        reached = probabilities >= probabilities[:, label, None]  # (N, K): labels at least as probable
        sums += np.where(is_true[:, label], (reached & is_true).sum(1) / reached.sum(1), 0.0)
    counts = is_true.sum(1)  # (N,)
    return np.where(counts == 0, 1.0, sums / np.maximum(counts, 1))


def regression(true: np.ndarray, predicted: np.ndarray) -> ScoreMetrics:
    """Metrics of polarity scores, with bootstrap intervals.

    Args:
        true: (N,), in [-1, 1], N ≥ 1.
        predicted: (N,).

    Returns:
        the metrics; `cosine` is that of SemEval-2017 task 5, `ccc` the concordance of `concordance`. A correlation or a
        cosine with a constant is None.
    """
    metrics = _defined_metrics(true, predicted)
    if (mse := metrics["mse"]) is not None:
        metrics["rmse"] = mse**0.5
    if len(true) > 1:
        metrics["r2"] = float(r2_score(true, predicted))
    (draws,) = _resampled_metrics(true, predicted)
    return ScoreMetrics.model_validate(metrics | {f"{name}_interval": _percentiles(its) for name, its in draws.items()})


@dataclass(frozen=True)
class ScoreDifference:
    """A score metric of two models, and their difference.

    Args:
        a: of the first model; None if it is undefined.
        b: of the second model; None if it is undefined.
        interval: [low, high], 95 %, of the difference a − b; None if it is undefined.
    """

    a: float | None
    b: float | None
    interval: Bounds | None

    @property
    def difference(self) -> float | None:
        """a − b; None if a metric is undefined."""
        return None if self.a is None or self.b is None else self.a - self.b


def score_differences(true: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, ScoreDifference]:
    """Score metrics of two models on the same rows, and their differences, paired by row.

    Args:
        true: (N,), N ≥ 1.
        first: predictions of the first model (N,).
        second: predictions of the second model (N,).

    Returns:
        by name of a metric.
    """
    a, b = _defined_metrics(true, first), _defined_metrics(true, second)
    draws_a, draws_b = _resampled_metrics(true, first, second)
    return {
        name: ScoreDifference(
            a[name],
            b[name],
            None if a[name] is None or b[name] is None else _percentiles(draws_a[name] - draws_b[name]),
        )
        for name in SCORE_METRICS
    }


def resampled_concordance(true: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the CCC of predictions (N,) minus that of others, and the same for every resample (SCORE_DRAWS,)."""
    ours, theirs = (draws["ccc"] for draws in _resampled_metrics(true, first, second))  # (SCORE_DRAWS,) each
    return float(concordance(true, first) - concordance(true, second)), ours - theirs


def _defined_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, float | None]:
    """Metrics of scores (N,), None where undefined."""
    values = {name: float(value[0]) for name, value in _score_metrics(true[None], predicted[None]).items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _score_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (draws,) of scores (draws, N), NaN where undefined."""
    return {
        "mse": np.square(true - predicted).mean(-1),
        "mae": np.abs(true - predicted).mean(-1),
        "ccc": concordance(true, predicted),
        "pearson": _cosine(_centered(true), _centered(predicted)),
        "spearman": _cosine(_centered(rankdata(true, axis=-1)), _centered(rankdata(predicted, axis=-1))),
        "cosine": _cosine(true, predicted),
    }


def concordance(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Concordance correlation coefficient (Lin, 1989): 2 cov / (var + var' + (mean − mean')²).

    It is at most the correlation, and lower if the predictions have another mean or another spread than the scores.

    Args:
        true: (…, N), N ≥ 1.
        predicted: (…, N).

    Returns:
        (…,), −1 to 1: 0 if either side is constant, 1 if both sides are the same constant.
    """
    first, second = _centered(true), _centered(predicted)  # (…, N) each
    spread = np.square(first).mean(-1) + np.square(second).mean(-1)  # (…,)
    distance = spread + np.square(true.mean(-1) - predicted.mean(-1))  # (…,)
    covariance = 2 * (first * second).mean(-1)  # (…,)
    ccc: np.ndarray = np.divide(covariance, distance, out=np.ones(distance.shape), where=distance > 0)
    return ccc


def _centered(values: np.ndarray) -> np.ndarray:
    """Values minus their mean; exactly 0 if all are equal, whatever the rounding of the mean."""
    centered: np.ndarray = values - values.mean(-1, keepdims=True)  # (draws, N)
    return np.where(np.ptp(values, axis=-1, keepdims=True) == 0, 0.0, centered)


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1)  # (draws,)
    products = (first * second).sum(-1)  # (draws,)
    cosine: np.ndarray = np.divide(products, norms, out=np.full(norms.shape, np.nan), where=norms > 0)
    return cosine


def _resampled_metrics(true: np.ndarray, *sides: np.ndarray) -> list[dict[str, np.ndarray]]:
    """Metrics (SCORE_DRAWS,) of each side's predictions (N,) for resampled rows, the same rows for all sides."""
    draws: list[list[dict[str, np.ndarray]]] = [[] for _ in sides]
    for rows in _resampled_rows(len(true)):
        for side, predicted in zip(draws, sides, strict=True):
            side.append(_score_metrics(true[rows], predicted[rows]))
    return [{name: np.concatenate([part[name] for part in side]) for name in side[0]} for side in draws]


def _resampled_rows(count: int) -> Iterator[np.ndarray]:
    """Indices (draws, N) of N rows drawn with replacement, SCORE_DRAWS times in blocks; equal in every call."""
    random = np.random.default_rng([0, count])
    block = max(1, SCORE_BLOCK // count)
    for start in range(0, SCORE_DRAWS, block):
        yield random.integers(count, size=(min(block, SCORE_DRAWS - start), count))


def _percentiles(values: np.ndarray) -> Bounds | None:
    """Interval of resampled values, without undefined ones; None if these are the most."""
    defined = values[np.isfinite(values)]
    if 2 * len(defined) <= len(values):
        return None
    low, high = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
    return low, high


def calibration_metrics(probabilities: np.ndarray, true: np.ndarray) -> CalibrationMetrics:
    """Calibration metrics of probabilities (N, K): ECE, Brier score and log loss.

    Args:
        true: (N,), index of each row's label, N ≥ 1.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == true  # (N,) each
    one_hot = np.eye(probabilities.shape[1])[true]  # (N, K)
    ranks = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")  # (N,)
    return CalibrationMetrics(
        ece=calibration_error(confidence, correct, confidence_bin(confidence)),
        ece_adaptive=calibration_error(confidence, correct, ranks * BINS // len(true)),
        brier=float(np.square(probabilities - one_hot).sum(1).mean()),
        log_loss=float(log_loss(true, probabilities, labels=np.arange(probabilities.shape[1]))),
    )


def pair_calibration_metrics(probabilities: np.ndarray, truth: np.ndarray) -> CalibrationMetrics:
    """Calibration metrics of a multi-label task, of all pairs of a row and a label as of one binary task.

    Args:
        probabilities: of labels (N, K), N ≥ 1.
        truth: which labels each row has (N, K) bool.
    """
    p, true = probabilities.ravel(), truth.ravel()  # (N · K,) each
    ranks = np.argsort(np.argsort(p, kind="stable"), kind="stable")  # (N · K,)
    return CalibrationMetrics(
        ece=calibration_error(p, true, confidence_bin(p)),
        ece_adaptive=calibration_error(p, true, ranks * BINS // len(true)),
        brier=float(np.square(p - true).mean()),
        log_loss=float(log_loss(true, p, labels=[False, True])),
    )


def calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: np.ndarray) -> float:
    """Mean over rows of |accuracy − mean confidence| of the row's bin."""
    return float(sum(abs((correct[bins == b] - confidence[bins == b]).sum()) for b in np.unique(bins)) / len(correct))
