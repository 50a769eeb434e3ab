"""Metrics of classification, of scores and of calibration, as functions of arrays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import rankdata
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    r2_score,
)

from moe.bootstrap import BINS, LEVEL, confidence_bin

OTHER_LABEL = "(other)"
SCORE_DRAWS, SCORE_BLOCK = 1_000, 2_000_000
"""Resamples for an interval of a score metric, and the most scores that are drawn at once."""
SCORE_METRICS = {"mse": "MSE", "mae": "MAE", "pearson": "Pearson", "spearman": "Spearman", "cosine": "cosine"}
"""Metrics of polarity scores in the order of tables, with their titles."""


def classification(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy; macro and weighted precision, recall and F1; the same per class; the confusion matrix.

    Args:
        true: label names (N,), N ≥ 1.
        predicted: label names (N,); a name outside `labels` is an error.
        labels: the task's labels, in order.

    Returns:
        metrics in [0, 1]; `confusion[i][j]` counts rows of label i that were predicted as label j, with a last column
        for names outside `labels`.
    """
    names = list(labels)
    per_class = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    macro = _averages(per_class, None)
    weighted = _averages(per_class, per_class[3])  # weighted by support
    known = [name if name in names else OTHER_LABEL for name in predicted]
    matrix = confusion_matrix(true, known, labels=[*names, OTHER_LABEL])[: len(names)]
    return {
        "rows": len(true),
        "accuracy": float(accuracy_score(true, predicted)),
        **{f"macro_{name}": value for name, value in macro.items()},
        **{f"weighted_{name}": value for name, value in weighted.items()},
        "per_class": {
            name: {key: float(per_class[k][i]) for k, key in enumerate(("precision", "recall", "f1", "support"))}
            for i, name in enumerate(names)
        },
        "confusion": {"labels": names, "rows": matrix.tolist()},
    }


def _averages(per_class: Sequence[np.ndarray], weights: np.ndarray | None) -> dict[str, float]:
    names = ("precision", "recall", "f1")
    return {name: float(np.average(per_class[i], weights=weights)) for i, name in enumerate(names)}


def regression(true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Metrics of polarity scores, each with its bootstrap interval.

    Args:
        true: (N,), in [-1, 1], N ≥ 1.
        predicted: (N,).

    Returns:
        `mse`, `mae`, `rmse`, `r2` (left out for a single row), `pearson`, `spearman`, and `cosine`, that of the vectors
        of all true and all predicted scores (SemEval-2017 task 5); None where a metric is undefined, as a correlation
        with a constant is. All but `rmse` and `r2` come with `…_interval`: [low, high], 95 %, or None.
    """
    metrics = _defined_metrics(true, predicted)
    metrics["rmse"] = metrics["mse"] ** 0.5
    if len(true) > 1:
        metrics["r2"] = float(r2_score(true, predicted))
    (draws,) = _resampled_metrics(true, predicted)
    return metrics | {f"{name}_interval": _percentiles(values) for name, values in draws.items()}


def score_differences(true: np.ndarray, first: np.ndarray, second: np.ndarray) -> dict[str, dict[str, Any]]:
    """Score metrics of two models on the same rows, and their differences, paired by row.

    Args:
        true: (N,), N ≥ 1.
        first: predictions of the first model (N,).
        second: predictions of the second model (N,).

    Returns:
        by name of a metric `a`, `b`, their `difference` (a − b) and its `interval`: [low, high], 95 %; None where
        undefined.
    """
    a, b = _defined_metrics(true, first), _defined_metrics(true, second)
    draws_a, draws_b = _resampled_metrics(true, first, second)
    return {
        name: {
            "a": a[name],
            "b": b[name],
            "difference": None if a[name] is None or b[name] is None else a[name] - b[name],
            "interval": None if a[name] is None or b[name] is None else _percentiles(draws_a[name] - draws_b[name]),
        }
        for name in SCORE_METRICS
    }


def _defined_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Metrics of scores (N,), None where undefined."""
    values = {name: float(value[0]) for name, value in _score_metrics(true[None], predicted[None]).items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _score_metrics(true: np.ndarray, predicted: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics (draws,) of scores (draws, N), NaN where undefined."""
    return {
        "mse": np.square(true - predicted).mean(-1),
        "mae": np.abs(true - predicted).mean(-1),
        "pearson": _cosine(_centered(true), _centered(predicted)),
        "spearman": _cosine(_centered(rankdata(true, axis=-1)), _centered(rankdata(predicted, axis=-1))),
        "cosine": _cosine(true, predicted),
    }


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
    random = np.random.default_rng([0, len(true)])
    block = max(1, SCORE_BLOCK // len(true))
    draws: list[list[dict[str, np.ndarray]]] = [[] for _ in sides]
    for start in range(0, SCORE_DRAWS, block):
        rows = random.integers(len(true), size=(min(block, SCORE_DRAWS - start), len(true)))  # (draws, N)
        for side, predicted in zip(draws, sides, strict=True):
            side.append(_score_metrics(true[rows], predicted[rows]))
    return [{name: np.concatenate([part[name] for part in side]) for name in side[0]} for side in draws]


def _percentiles(values: np.ndarray) -> list[float] | None:
    """Interval of resampled values, without undefined ones; None if these are the most."""
    defined = values[np.isfinite(values)]
    if 2 * len(defined) <= len(values):
        return None
    bounds: list[float] = np.percentile(defined, [50 * (1 - LEVEL), 50 * (1 + LEVEL)]).tolist()
    return bounds


def calibration_metrics(probabilities: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Calibration metrics of probabilities (N, K): ECE, Brier score and log loss; 0 is best for all.

    Args:
        true: (N,), index of each row's label, N ≥ 1.

    Returns:
        `ece`, the expected calibration error with 15 bins of confidence of equal width (Guo et al., 2017), 0 to 1;
        `ece_adaptive`, the same with 15 bins of equally many rows; `brier`, the mean over rows of the squared distance
        to the one-hot label, 0 to 2 (Brier, 1950); `log_loss` in nats.
    """
    confidence, correct = probabilities.max(1), probabilities.argmax(1) == true  # (N,) each
    one_hot = np.eye(probabilities.shape[1])[true]  # (N, K)
    ranks = np.argsort(np.argsort(confidence, kind="stable"), kind="stable")  # (N,)
    return {
        "ece": _calibration_error(confidence, correct, confidence_bin(confidence)),
        "ece_adaptive": _calibration_error(confidence, correct, ranks * BINS // len(true)),
        "brier": float(np.square(probabilities - one_hot).sum(1).mean()),
        "log_loss": float(log_loss(true, probabilities, labels=np.arange(probabilities.shape[1]))),
    }


def _calibration_error(confidence: np.ndarray, correct: np.ndarray, bins: np.ndarray) -> float:
    """Mean over rows of |accuracy − mean confidence| of the row's bin."""
    return float(sum(abs((correct[bins == b] - confidence[bins == b]).sum()) for b in np.unique(bins)) / len(correct))
