"""Results of `moe calibrate`."""

from pydantic import Field

from moe.results.base import Bounds, Result


class CalibrationMetrics(Result):
    """How well probabilities are calibrated; 0 is best for all.

    Those of a multi-label task are of all pairs of a row and a label, as of one binary task.

    Args:
        ece: expected calibration error with 15 bins of confidence of equal width (Guo et al., 2017), 0 to 1.
        ece_adaptive: the same with 15 bins of equally many rows.
        brier: mean squared distance to the one-hot label, 0 to 2 (Brier, 1950); of a pair 0 to 1.
        log_loss: in nats.
    """

    ece: float
    ece_adaptive: float
    brier: float
    log_loss: float


class SplitCalibration(Result):
    """Calibration of a task on the rows of a split.

    Args:
        rows: number of labelled rows.
        accuracy: 0 to 1, of sets the share of exact ones; the temperature does not change it.
        before: at temperature 1.
        after: at the fitted temperature.
        macro_f1: of a multi-label task, at the fitted thresholds, 0 to 1.
        macro_f1_default: of a multi-label task, at thresholds of 0.5.
    """

    rows: int
    accuracy: float
    before: CalibrationMetrics
    after: CalibrationMetrics
    macro_f1: float | None = None
    macro_f1_default: float | None = None


class RetainedRows(Result):
    """Test rows whose confidence reaches a threshold.

    Args:
        rows: number of these rows.
        coverage: their share, 0 to 1.
        accuracy: of these rows, 0 to 1; not set if there are none.
        accuracy_interval: its 95 % interval.
    """

    rows: int
    coverage: float
    accuracy: float | None = None
    accuracy_interval: Bounds | None = None


class OperatingPoint(Result):
    """A threshold on the confidence that reaches a target accuracy on validation rows, or what it takes to find one.

    Args:
        threshold: smallest confidence to retain; None if no threshold is known to reach the accuracy.
        rows_needed: without a threshold, the validation rows that it takes at least; None if no number is enough.
        coverage: share of the validation rows that are retained, 0 to 1.
        accuracy: of the retained validation rows, 0 to 1.
        lower: lower bound of the accuracy at the level of the calibration.
        test: what the threshold gives on test rows, if there are any.
    """

    threshold: float | None
    rows_needed: int | None = None
    coverage: float | None = None
    accuracy: float | None = None
    lower: float | None = None
    test: RetainedRows | None = None


class SetCoverage(Result):
    """Conformal label sets on the rows of a task or domain, and abstaining beside them.

    Args:
        rows: number of labelled rows.
        coverage: share of the rows whose set holds the true label, 0 to 1; not set without rows.
        coverage_interval: its 95 % interval.
        mean_size: labels per set, at least 1.
        single: share of the rows whose set is one label, 0 to 1.
        bound: smallest probability of a label in a set; only set for a task.
        validation_rows: number of rows that the bound was fitted on; only set for a task.
        abstain: rows that abstaining answers at a target accuracy of the sets' level; not set if a task has no
            threshold for it.
    """

    rows: int
    coverage: float | None = None
    coverage_interval: Bounds | None = None
    mean_size: float | None = None
    single: float | None = None
    bound: float | None = None
    validation_rows: int | None = None
    abstain: RetainedRows | None = None


class LabelSetReport(Result):
    """Conformal label sets of a model on labelled rows, each in the labels of its own task.

    Args:
        level: share of texts like the validation rows whose set holds the true label, at least; 0.5 to 1.
        rows_needed: fewest validation rows of a task with sets at this level.
        tasks: by task with sets.
        domains: by domain with such tasks, their rows pooled.
        too_few_rows: number of validation rows of each task without sets.
    """

    level: float
    rows_needed: int
    tasks: dict[str, SetCoverage]
    domains: dict[str, SetCoverage]
    too_few_rows: dict[str, int] = Field(default_factory=dict)


class TaskCalibrationReport(Result):
    """Calibration of one task.

    Args:
        temperature: that the logits are divided by, above 0; more makes the model less confident.
        remark: why the temperature is as it is, or None.
        validation: on the rows that it was fitted on.
        test: on test rows, if there are any.
        abstain: by target accuracy; None in a report of an earlier release, without a threshold.
        label_thresholds: of a multi-label task, calibrated probability from which each label is predicted.
    """

    temperature: float
    remark: str | None = None
    validation: SplitCalibration | None = None
    test: SplitCalibration | None = None
    abstain: dict[str, OperatingPoint | None] = Field(default_factory=dict)
    label_thresholds: dict[str, float] | None = None

    def splits(self) -> dict[str, SplitCalibration]:
        """The splits with labelled rows."""
        splits = {"validation": self.validation, "test": self.test}
        return {name: split for name, split in splits.items() if split is not None}


class CalibrationReport(Result):
    """Calibration of a model, the content of `calibration.json` in `evaluation/MODEL/`.

    Args:
        model: folder of the model.
        routing: how the rows were routed; soft in a report of an earlier release.
        level: confidence level of the thresholds, 0.5 to 1; None in a report of an earlier release.
        tasks: by task.
        label_sets: conformal sets on the test rows; not set without `--conformal`.
    """

    model: str = ""
    routing: str = "soft"
    level: float | None = None
    tasks: dict[str, TaskCalibrationReport]
    label_sets: LabelSetReport | None = None
