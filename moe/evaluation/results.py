"""Test results of one model, task by task: metrics, and the predictions that paired differences need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from experts.domain import Labels
from moe.bootstrap import TaskPredictions, interval_fields
from moe.evaluation.metrics import SCORE_METRICS, classification, regression

LABEL_METRICS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class TaskResult:
    """Test result of one model on one task.

    Args:
        ids: of the labelled rows, in order.
        predictions: for these rows; None if no row has a label.
        report: `moe.evaluation.metrics.classification` of these rows, with intervals; empty if no row has a label.
        scores: `moe.evaluation.metrics.regression` of the rows with a score; empty without such rows.
    """

    ids: tuple[str, ...] = ()
    predictions: TaskPredictions | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, Any] = field(default_factory=dict)

    @property
    def figures(self) -> dict[str, Any]:
        """Accuracy, macro-F1 and the score metrics, each with its interval, as in a run's summary."""
        names = [f"{name}{end}" for name in (*LABEL_METRICS, *SCORE_METRICS) for end in ("", "_interval")]
        metrics = {**self.report, **self.scores}
        return {name: metrics[name] for name in names if name in metrics}


ModelResult = dict[str, TaskResult]
"""Results of a model by task."""


def label_result(
    ids: Sequence[str], true: Sequence[str], predicted: Sequence[str], labels: Labels, scores: Mapping[str, Any]
) -> TaskResult:
    """Build the result of a task from label names (N,), N ≥ 1, and the metrics of its scores."""
    predictions = TaskPredictions.from_labels(true, predicted, labels)
    report = classification(true, predicted, labels) | interval_fields([predictions])
    return TaskResult(tuple(ids), predictions, report, scores)


def score_metrics(true: Sequence[float], predicted: Sequence[float]) -> dict[str, Any]:
    """Metrics of scores (N,); empty for N = 0."""
    return regression(np.asarray(true, dtype=float), np.asarray(predicted, dtype=float)) if len(true) else {}


def mean_figures(result: ModelResult) -> dict[str, Any]:
    """Means over all tasks with labels of accuracy and macro-F1, with their intervals; empty without labels."""
    labelled = {task: its for task, its in result.items() if its.predictions is not None}
    if not labelled:
        return {}
    means = {name: float(np.mean([its.report[name] for its in labelled.values()])) for name in LABEL_METRICS}
    intervals = interval_fields([its.predictions for its in labelled.values() if its.predictions is not None])
    return means | {f"{name}_interval": intervals[f"{name}_interval"] for name in LABEL_METRICS}
