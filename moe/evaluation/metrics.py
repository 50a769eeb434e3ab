"""Metrics of classification, of scores and of calibration, as functions of arrays."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    log_loss,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

from moe.bootstrap import BINS, confidence_bin

OTHER_LABEL = "(other)"


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


def regression(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MSE, MAE, RMSE and R² of scores (N,) in [-1, 1]; R² needs two rows and is left out for fewer."""
    mse = float(mean_squared_error(true, predicted))
    metrics = {"mse": mse, "mae": float(mean_absolute_error(true, predicted)), "rmse": mse**0.5}
    return metrics | ({"r2": float(r2_score(true, predicted))} if len(true) > 1 else {})


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
