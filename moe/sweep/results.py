"""Results of a sweep: of one trial from one seed, of each trial over its seeds, and of all trials."""

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from moe.drift.comparison import DriftComparison
from moe.results.base import Result
from moe.results.metrics import LabelMetrics, MetricFields, ScoreMetrics
from moe.sweep.grid import Values

Split = Literal["validation", "test"]
LABEL_METRICS = ("accuracy", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1")
SCORE_METRICS = ("mse", "mae", "rmse", "r2")


class TrialFigures(MetricFields):
    """Metrics of a trial on one task, or their means over tasks; those of labels or of scores may be missing.

    Args:
        accuracy: share of right labels, 0 to 1; the metrics of labels that follow have the same range.
        macro_f1: mean over labels.
        weighted_precision: mean over labels weighted by their rows.
        weighted_recall: the same of the recall.
        weighted_f1: the same of F1.
        mse: mean squared error of the scores, 0 to 4.
        mae: mean absolute error, 0 to 2.
        rmse: root of `mse`.
        r2: share of the variance that is explained, at most 1.
    """

    accuracy: float | None = None
    macro_f1: float | None = None
    weighted_precision: float | None = None
    weighted_recall: float | None = None
    weighted_f1: float | None = None
    mse: float | None = None
    mae: float | None = None
    rmse: float | None = None
    r2: float | None = None

    def known(self) -> Iterator[tuple[str, float]]:
        """Yield the metrics that are known, by name."""
        for name in (*LABEL_METRICS, *SCORE_METRICS):
            if (value := self.value(name)) is not None:
                yield name, value

    @classmethod
    def of_task(cls, labels: LabelMetrics | None, scores: ScoreMetrics | None) -> "TrialFigures":
        """Select the metrics of a task."""
        sides = ((labels, LABEL_METRICS), (scores, SCORE_METRICS))
        return cls.model_validate(
            {
                name: value
                for metrics, names in sides
                if metrics is not None
                for name in names
                if (value := metrics.value(name)) is not None
            }
        )


class SplitFigures(TrialFigures):
    """Means over the tasks of a split, and each task's own metrics."""

    tasks: dict[str, TrialFigures] = Field(default_factory=dict)


class TrialCost(Result):
    """Cost of the training of a trial from one seed, over all calls that have resumed it.

    Args:
        seconds: of training.
        peak_mib: peak memory in MiB, or None.
        memory_of: the device, or the process, whose memory that is.
    """

    seconds: float
    peak_mib: float | None
    memory_of: str = ""


class TrialResult(Result):
    """A trial from one seed, a line of `results.jsonl`.

    Args:
        point: key of the trial.
        settings: its values, by name of the setting.
        seed: of the training.
        validation: metrics on validation rows.
        test: metrics on test rows.
        parameters: number of trained ones.
        seconds: of training.
        peak_mib: peak memory during training in MiB, or None.
        memory_of: the device, or the process, whose memory that is.
    """

    point: str
    settings: Values
    seed: int
    validation: SplitFigures
    test: SplitFigures
    parameters: int
    seconds: float
    peak_mib: float | None
    memory_of: str


class MeanSd(Result):
    """Mean over seeds, and the sample standard deviation; None as the deviation of a single value."""

    mean: float
    sd: float | None


class TrialSummary(Result):
    """A trial over its seeds.

    Args:
        point: key of the trial.
        settings: its values, by name of the setting.
        seeds: that it was trained from.
        parameters: number of trained ones.
        quality: mean validation macro-F1, or −MSE if no row has a label; higher is better.
        seconds: of training.
        peak_mib: peak memory during training in MiB; None if it is not known.
        validation: by metric that every seed has.
        test: by metric that every seed has.
    """

    point: str
    settings: Values
    seeds: list[int]
    parameters: int
    quality: float
    seconds: MeanSd | None
    peak_mib: MeanSd | None
    validation: dict[str, MeanSd]
    test: dict[str, MeanSd]

    def split(self, name: Split) -> dict[str, MeanSd]:
        """The metrics on the rows of a split."""
        return self.validation if name == "validation" else self.test


class FoldMeasures(Result):
    """What is measured of a trained fold beside the trial's metrics.

    Args:
        fold: its number, from 0.
        periods: first and last time of the rows by split, in ISO 8601 and UTC; None for folds without times.
        rows: number of rows by split.
        tfidf: test metrics of TF-IDF with logistic regression, trained on the fold's training rows.
        majority: those of the most frequent label of the training rows.
        drift: comparison of the test rows with the validation rows, by the domain that the model is for, or `all`.
    """

    fold: int
    periods: dict[str, tuple[str, str]] | None
    rows: dict[str, int]
    tfidf: TrialFigures
    majority: TrialFigures
    drift: dict[str, DriftComparison]


class FoldRow(Result):
    """A fold of one trial.

    Args:
        point: key of the trial.
        settings: its values other than the fold, if they vary.
        seeds: number of seeds over which the metrics are means.
        test: mean test metrics over seeds.
        measures: of the first seed.
    """

    point: str
    settings: Values
    seeds: int
    test: dict[str, MeanSd]
    measures: FoldMeasures


class SweepSummary(Result):
    """All trials of a sweep, the content of `sweep.json`.

    Args:
        name: of the sweep.
        until: the last stage that is trained.
        varying: names of the settings that differ between trials.
        memory_of: the devices, or the process, whose memory was measured.
        best: key of the trial with the best mean validation macro-F1, or the lowest MSE if nothing has labels.
        points: the trials with results.
        failed: why training failed, by trial and seed.
        folder: of the sweep.
        charts: paths of the charts.
        folds: the folds in order; empty for a sweep without folds.
    """

    name: str
    until: str
    varying: list[str]
    memory_of: str
    best: str | None
    points: list[TrialSummary]
    failed: dict[str, str] = Field(default_factory=dict)
    folder: str = ""
    charts: list[str] = Field(default_factory=list)
    folds: list[FoldRow] = Field(default_factory=list)
