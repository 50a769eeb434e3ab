"""Test results of one model, task by task: metrics, and the predictions that paired differences need."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experts.domain import CLASSES, Kind, Labels
from moe.bootstrap import TaskPredictions
from moe.evaluation.metrics import SCORE_METRICS, label_metrics, metric_intervals, regression
from moe.results.metrics import LabelMetrics, MeanMetrics, ScoreMetrics, TaskFigures


@dataclass(frozen=True)
class ScoreAnswers:
    """Predicted scores of one model on one task.

    Args:
        ids: of the rows with a score, in order.
        true: their scores (N,), N ≥ 1.
        predicted: (N,), −1 to 1.
    """

    ids: tuple[str, ...]
    true: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class TaskResult:
    """Test result of one model on one task.

    Args:
        ids: of the labelled rows, in order.
        predictions: for these rows; None if no row has a label.
        metrics: of these rows, with intervals; None if no row has a label.
        scores: of the rows with a score; None without such rows.
        answers: for the rows with a score; None if rows have labels, which are compared then, or if there are none.
    """

    ids: tuple[str, ...] = ()
    predictions: TaskPredictions | None = None
    metrics: LabelMetrics | None = None
    scores: ScoreMetrics | None = None
    answers: ScoreAnswers | None = None

    @property
    def row_ids(self) -> tuple[str, ...]:
        """Ids of the rows that are compared: those with a label, or of a task without labels those with a score."""
        return self.ids if self.answers is None else self.answers.ids

    @property
    def figures(self) -> TaskFigures:
        """Accuracy, macro-F1 and the score metrics, each with its interval, as in a run's summary."""
        sides = ((self.metrics, ("accuracy", "macro_f1")), (self.scores, tuple(SCORE_METRICS)))
        return TaskFigures.model_validate(
            {
                field: value
                for metrics, names in sides
                if metrics is not None
                for name in names
                for field, value in ((name, metrics.value(name)), (f"{name}_interval", metrics.interval(name)))
            }
        )


ModelResult = dict[str, TaskResult]
"""Results of a model by task."""


def label_result(
    ids: Sequence[str],
    true: Sequence[str],
    predicted: Sequence[str],
    labels: Labels,
    scores: ScoreMetrics | None,
    kind: Kind = CLASSES,
    probabilities: np.ndarray | None = None,
) -> TaskResult:
    """Build the result of a task from its answers (N,), N ≥ 1, and the metrics of its scores; see `classification`."""
    predictions = TaskPredictions.from_labels(true, predicted, labels, kind)
    return TaskResult(tuple(ids), predictions, label_metrics(true, predicted, labels, kind, probabilities), scores)


def score_result(answers: ScoreAnswers | None) -> TaskResult:
    """Build the result of a task whose rows have scores alone."""
    return TaskResult(scores=score_metrics(answers), answers=answers)


def score_metrics(answers: ScoreAnswers | None) -> ScoreMetrics | None:
    """Metrics of scores; None without answers."""
    return None if answers is None else regression(answers.true, answers.predicted)


def mean_figures(result: ModelResult) -> MeanMetrics | None:
    """Means over all tasks with labels of accuracy and macro-F1, with their intervals; None without labels."""
    metrics = [its.metrics for its in result.values() if its.metrics is not None]
    if not metrics:
        return None
    intervals = metric_intervals([its.predictions for its in result.values() if its.predictions is not None])
    return MeanMetrics(
        accuracy=float(np.mean([its.accuracy for its in metrics])),
        macro_f1=float(np.mean([its.macro_f1 for its in metrics])),
        accuracy_interval=intervals["accuracy_interval"],
        macro_f1_interval=intervals["macro_f1_interval"],
    )
