"""Metrics of predicted labels and scores on labelled rows, of one task or averaged over tasks."""

from moe.results.base import Bounds, Result


class MetricFields(Result):
    """Metrics with the intervals of some of them, which tables read by name."""

    def value(self, name: str) -> float | None:
        """A metric by its name; None if it is undefined or was not computed."""
        value: float | None = getattr(self, name, None)
        return value

    def interval(self, name: str) -> Bounds | None:
        """The 95 % interval of a metric by its name; None if it is undefined or was not computed."""
        bounds: Bounds | None = getattr(self, f"{name}_interval", None)
        return bounds


class ClassMetrics(Result):
    """Metrics of one label.

    Args:
        precision: share of the rows predicted as the label that have it, 0 to 1.
        recall: share of the label's rows that are predicted as it, 0 to 1.
        f1: harmonic mean of both, 0 to 1.
        support: number of rows of the label.
    """

    precision: float
    recall: float
    f1: float
    support: float


class Confusion(Result):
    """Confusion matrix of one task.

    Args:
        labels: the task's labels (K).
        rows: (K, K + 1), rows of each label by predicted label; the last column counts labels of other tasks.
    """

    labels: list[str]
    rows: list[list[int]]


class MeanMetrics(MetricFields):
    """Label metrics averaged over tasks, 0 to 1, with 95 % intervals."""

    accuracy: float
    macro_f1: float
    weighted_f1: float | None = None
    accuracy_interval: Bounds | None = None
    macro_f1_interval: Bounds | None = None
    weighted_f1_interval: Bounds | None = None


class LabelMetrics(MetricFields):
    """Label metrics of one task.

    Args:
        rows: number of labelled rows.
        accuracy: share of right predictions, 0 to 1; of a multi-label task the subset accuracy, the share of rows whose
            predicted set of labels is exactly the true one.
        macro_precision: mean over labels, 0 to 1.
        macro_recall: mean over labels, 0 to 1.
        macro_f1: mean over labels, 0 to 1.
        weighted_precision: mean over labels weighted by their rows, 0 to 1.
        weighted_recall: the same of the recall.
        weighted_f1: the same of F1.
        per_class: metrics of each label.
        confusion: rows by true and predicted label; None for a multi-label task.
        micro_f1: of a multi-label task, F1 of all pairs of a row and a label, 0 to 1.
        lrap: of a multi-label task, the label ranking average precision, 0 to 1: for each true label, the share of true
            labels among those at least as probable, averaged over labels and rows; 1 for a row without labels.
        quadratic_kappa: of an ordinal task, Cohen's kappa with quadratic weights, at most 1; None if it is undefined.
        accuracy_interval: 95 %, over the sampling of rows.
        macro_f1_interval: 95 %, over the sampling of rows.
        weighted_f1_interval: 95 %, over the sampling of rows.
        micro_f1_interval: 95 %, over the sampling of rows.
        lrap_interval: 95 %, over the sampling of rows.
    """

    rows: int
    accuracy: float
    macro_precision: float
    macro_recall: float
    macro_f1: float
    weighted_precision: float
    weighted_recall: float
    weighted_f1: float
    per_class: dict[str, ClassMetrics]
    confusion: Confusion | None = None
    micro_f1: float | None = None
    lrap: float | None = None
    quadratic_kappa: float | None = None
    accuracy_interval: Bounds | None = None
    macro_f1_interval: Bounds | None = None
    weighted_f1_interval: Bounds | None = None
    micro_f1_interval: Bounds | None = None
    lrap_interval: Bounds | None = None


class ScoreMetrics(MetricFields):
    """Metrics of the polarity scores of one task; None where a metric is undefined.

    Args:
        mse: mean squared error, 0 to 4.
        mae: mean absolute error, 0 to 2.
        ccc: concordance correlation coefficient, −1 to 1; 0 for constant predictions of scores that differ.
        pearson: correlation, −1 to 1.
        spearman: correlation of the ranks, −1 to 1.
        cosine: cosine of the vectors of all true and all predicted scores, −1 to 1.
        rmse: root of `mse`.
        r2: share of the variance that is explained, at most 1; not computed for a single row.
        mse_interval: 95 %, over the sampling of rows.
        mae_interval: 95 %, over the sampling of rows.
        ccc_interval: 95 %, over the sampling of rows.
        pearson_interval: 95 %, over the sampling of rows.
        spearman_interval: 95 %, over the sampling of rows.
        cosine_interval: 95 %, over the sampling of rows.
    """

    mse: float
    mae: float
    ccc: float | None = None
    pearson: float | None = None
    spearman: float | None = None
    cosine: float | None = None
    rmse: float | None = None
    r2: float | None = None
    mse_interval: Bounds | None = None
    mae_interval: Bounds | None = None
    ccc_interval: Bounds | None = None
    pearson_interval: Bounds | None = None
    spearman_interval: Bounds | None = None
    cosine_interval: Bounds | None = None


class TaskFigures(MetricFields):
    """The metrics of one model on one task that a run compares; those of labels or of scores may be missing.

    Each is that of `LabelMetrics` or of `ScoreMetrics`, followed by its 95 % interval.
    """

    accuracy: float | None = None
    accuracy_interval: Bounds | None = None
    macro_f1: float | None = None
    macro_f1_interval: Bounds | None = None
    mse: float | None = None
    mse_interval: Bounds | None = None
    mae: float | None = None
    mae_interval: Bounds | None = None
    ccc: float | None = None
    ccc_interval: Bounds | None = None
    pearson: float | None = None
    pearson_interval: Bounds | None = None
    spearman: float | None = None
    spearman_interval: Bounds | None = None
    cosine: float | None = None
    cosine_interval: Bounds | None = None
