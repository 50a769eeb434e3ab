"""Results of `moe evaluate`, of the comparison of two models, and of the levels of trivial baselines."""

from typing import Literal

from pydantic import Field

from moe.results.base import Bounds, OrEmpty, Result
from moe.results.calibration import LabelSetReport
from moe.results.metrics import LabelMetrics, MeanMetrics, ScoreMetrics

Side = Literal["a", "b"]
"""One of two models that are compared."""


class RoutingReport(Result):
    """How a mixture routes rows.

    Args:
        accuracy: share of rows whose most probable domain is the true one, 0 to 1.
        entropy: mean entropy of the soft routing weights, 0 (one expert per text) to 1 (equal weights).
        table: mean soft routing weight by domain of the rows and expert; each domain's sum to 1.
        collapsed: experts that are hardly used.
    """

    accuracy: float
    entropy: float
    table: dict[str, dict[str, float]]
    collapsed: list[str] = Field(default_factory=list)


class EvaluationReport(Result):
    """Metrics of a model on labelled rows, the content of `metrics.json` in `evaluation/MODEL/`.

    Args:
        rows: number of rows.
        routing_mode: `soft`, `pruned`, `hard` or `pinned`.
        tasks: by task, of predictions among the labels of the row's own task.
        tasks_routed: by task, of predictions for the most probable domain, as for a text of unknown domain.
        domains: means over the tasks of each domain.
        mean: means over all tasks; None if no row has a label.
        scores: by task with scores.
        routing: of all rows.
        label_sets: conformal sets, each in the labels of the row's own task; not set if the model has none.
    """

    rows: int
    routing_mode: str
    tasks: dict[str, LabelMetrics]
    tasks_routed: dict[str, LabelMetrics]
    domains: dict[str, MeanMetrics]
    mean: OrEmpty[MeanMetrics]
    scores: dict[str, ScoreMetrics]
    routing: RoutingReport
    label_sets: LabelSetReport | None = None


class MetricDifference(Result):
    """A metric of two models on the same rows; None where it is undefined.

    Args:
        a: metric of the first model.
        b: metric of the second model.
        difference: a − b.
        interval: 95 % interval of the difference, paired by row.
        verdict: the difference in words.
    """

    a: float | None
    b: float | None
    difference: float | None
    interval: Bounds | None
    verdict: str


class TaskComparison(Result):
    """Label metrics of two models on the same rows, of one task or averaged over tasks.

    Args:
        rows: number of rows.
        accuracy: difference in [−1, 1].
        macro_f1: difference in [−1, 1].
        mcnemar_p: p-value of McNemar's test, of the mean for all rows pooled.
    """

    rows: int
    accuracy: MetricDifference
    macro_f1: MetricDifference
    mcnemar_p: float


class Comparison(Result):
    """Two models compared on the rows of the tasks that both have.

    Args:
        a: folder of the first model.
        b: folder of the second model.
        tasks: by task.
        mean: over all tasks with labels; None without any.
        scores: by task with scores that both models predict, and by metric (`ScoreMetrics`).
        not_compared: tasks that only one of the models has.
    """

    a: str
    b: str
    tasks: dict[str, TaskComparison]
    mean: OrEmpty[TaskComparison]
    scores: dict[str, dict[str, MetricDifference]]
    not_compared: dict[Side, list[str]]


class MajorityLevel(Result):
    """Validation metrics of the majority class of the training rows.

    Args:
        accuracy: 0 to 1.
        macro_f1: 0 to 1.
        label: that is predicted for all rows.
    """

    accuracy: float
    macro_f1: float
    label: str


class TfidfLevel(Result):
    """Validation metrics of TF-IDF with logistic regression.

    Args:
        accuracy: 0 to 1.
        accuracy_interval: its 95 % interval.
        macro_f1: 0 to 1.
        macro_f1_interval: its 95 % interval.
        constant_accuracy: of the best constant prediction.
        chance_macro_f1: to expect of the same predictions in random order.
        rows: number of labelled validation rows.
        train_rows: number of training rows that it was fitted on.
        key: hash of the rows; not set for levels that are not in a file.
    """

    accuracy: float
    accuracy_interval: Bounds
    macro_f1: float
    macro_f1_interval: Bounds
    constant_accuracy: float
    chance_macro_f1: float
    rows: int
    train_rows: int
    key: str = ""


class TaskLevels(Result):
    """Levels to compare the validation metrics of one task with."""

    majority: MajorityLevel
    tfidf: TfidfLevel


Levels = dict[str, TaskLevels]
"""Levels by task, the content of `levels.json`."""
