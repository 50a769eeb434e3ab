"""The figures of an evaluation: classification, scores, routing. Each is a function of arrays, by scikit-learn.

Which rows they are measured on is `moe.evaluate`'s.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    confusion_matrix,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)

ELSE = "(other)"


def classification(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy; macro and weighted precision, recall, F1; the same per class; the confusion matrix.

    Args:
        true: label names (N,), N ≥ 1.
        predicted: label names (N,); a name outside `labels` counts as wrong.
        labels: the task's labels in order.

    Returns:
        figures in [0, 1]; `confusion[i][j]` counts rows of label i that were called j, with a last column for
        names outside `labels`.
    """
    names = list(labels)
    macro = _averages(true, predicted, names, "macro")
    weighted = _averages(true, predicted, names, "weighted")
    each = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
    inside = [name if name in names else ELSE for name in predicted]
    matrix = confusion_matrix(true, inside, labels=[*names, ELSE])[: len(names)]
    return {
        "rows": len(true),
        "accuracy": float(accuracy_score(true, predicted)),
        **{f"macro_{name}": value for name, value in macro.items()},
        **{f"weighted_{name}": value for name, value in weighted.items()},
        "per_class": {
            name: {key: float(each[k][i]) for k, key in enumerate(("precision", "recall", "f1", "support"))}
            for i, name in enumerate(names)
        },
        "confusion": {"labels": names, "rows": matrix.tolist()},
    }


def _averages(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str], kind: str) -> dict[str, float]:
    figures = precision_recall_fscore_support(true, predicted, labels=labels, average=kind, zero_division=0)
    return {name: float(figures[i]) for i, name in enumerate(("precision", "recall", "f1"))}


def regression(true: np.ndarray, predicted: np.ndarray) -> dict[str, float]:
    """MSE, MAE, RMSE and R² of scores (N,) in [-1, 1]; R² needs two rows and is left out below that."""
    mse = float(mean_squared_error(true, predicted))
    figures = {"mse": mse, "mae": float(mean_absolute_error(true, predicted)), "rmse": mse**0.5}
    return figures | ({"r2": float(r2_score(true, predicted))} if len(true) > 1 else {})
