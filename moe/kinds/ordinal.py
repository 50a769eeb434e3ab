"""Tasks with one of several ordered labels per row, whose head is a cumulative-link model (`moe.model.heads`)."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from experts.domain import Kind
from moe.kinds.classes import Classes
from moe.results.metrics import LabelMetrics


class Ordinal(Classes):
    """One of several ordered labels per row.

    The head gives the logarithms of the labels' probabilities, so everything after it is as for `Classes`.
    """

    name: ClassVar[Kind] = "ordinal"

    def check_labels(self, labels: Sequence[str]) -> str | None:
        """At least three labels: two have no order that matters."""
        if len(labels) < 3:
            return f"a task of the kind ordinal has at least 3 labels, from low to high, not {len(labels)}: use classes"
        return None

    def metrics(
        self,
        true: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: np.ndarray | None = None,
    ) -> LabelMetrics:
        """Metrics of classification, and Cohen's kappa with quadratic weights."""
        report = super().metrics(true, predicted, labels, probabilities)
        return report.model_copy(update={"quadratic_kappa": quadratic_kappa(true, predicted, labels)})


def quadratic_kappa(true: Sequence[str], predicted: Sequence[str], labels: Sequence[str]) -> float | None:
    """Cohen's kappa with weights that grow with the square of the distance between labels (Cohen, 1968).

    Args:
        true: labels (N,), N ≥ 1.
        predicted: labels (N,).
        labels: in order.

    Returns:
        at most 1; 0 for predictions that are independent of the labels. None if a prediction is another task's label,
        or if true and predicted labels are all the same one.
    """
    from sklearn.metrics import cohen_kappa_score  # slow to import

    if not set(predicted) <= set(labels) or len({*true, *predicted}) == 1:
        return None
    return float(cohen_kappa_score(true, predicted, labels=list(labels), weights="quadratic"))
