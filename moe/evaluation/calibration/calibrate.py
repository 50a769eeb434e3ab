"""Calibration of a model: a temperature per task, abstention thresholds and label sets, fitted on validation rows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from datasets import Dataset
from rich.console import Group, RenderableType
from rich.text import Text
from sklearn.metrics import f1_score

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.console import Table, info
from moe.evaluation.calibration.conformal import check_set_level, label_set_report, with_label_sets
from moe.evaluation.calibration.label_thresholds import choose_thresholds
from moe.evaluation.calibration.temperature import TaskLogits, choose_temperature
from moe.evaluation.calibration.thresholds import DEFAULT_LEVEL, check_level, retained_rows, risk_coverage_curve
from moe.evaluation.evaluate import evaluate_rows, logits_by_task
from moe.evaluation.metrics import calibration_metrics, pair_calibration_metrics
from moe.evaluation.test_sets import load_run_rows
from moe.extras import check_extra
from moe.inference.abstention import find_point, rows_needed
from moe.inference.calibration import CALIBRATION, TaskCalibration, write_calibration
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.model.mode import Routing, RoutingChoice
from moe.plots.calibration import CalibrationSeries, write_reliability_chart, write_risk_coverage_chart
from moe.report.label_sets import label_set_view
from moe.report.terminal import format_interval
from moe.results.calibration import (
    CalibrationReport,
    OperatingPoint,
    SplitCalibration,
    TaskCalibrationReport,
)
from moe.runs.layout import EVALUATION
from moe.runs.locking import writes_run_and_model
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

SPLITS = ("validation", "test")
TARGET_ACCURACIES = (0.8, 0.85, 0.9, 0.95)
LogitsByTask = dict[str, TaskLogits]


@writes_run_and_model
def calibrate(
    work: Workspace,
    folder: Path,
    sets: Sequence[str] = (),
    quiet: bool = True,
    level: float = DEFAULT_LEVEL,
    conformal: float | None = None,
    routing: RoutingChoice = "auto",
) -> CalibrationReport:
    """Fit a model's temperatures and thresholds on the run's validation rows, and write them into its folder.

    Rows are routed as in inference and predicted with the labels of their own task. The report and charts are written
    below `evaluation/MODEL/`.

    Args:
        sets: overrides of the backbone settings, see `load_mixture`.
        level: confidence level of the thresholds' accuracy, 0.5 to 1; more retains fewer rows.
        conformal: level of label sets, 0.5 to 1, the least share of texts whose set holds the true label; more makes
            larger sets. None fits no sets.
        routing: `auto`, `soft`, `pruned` or `hard`; thresholds and label sets hold only for texts that are routed so.

    Raises:
        Fault: if the model cannot be loaded, there are no labelled validation rows or too few for label sets, a folder
            cannot be written, or a level is out of range.
    """
    check_level(level)
    if conformal is not None:
        check_set_level(conformal)
        check_extra("conformal")
    check_extra("report")  # the charts are drawn last
    model, template, max_length = load_mixture(resolve(folder), sets)
    predictor = TorchPredictor(model, template, max_length, routing)
    validation, test = (
        collect_logits(predictor, load_run_rows(work, model, split), title=split, quiet=quiet) for split in SPLITS
    )
    tasks = [task for domain in model.trained_domains for task in domain.tasks]
    scored = ", ".join(task for task in tasks if task in model.labels.score_tasks)
    if not validation and scored and not any(task in model.labels.head_by_task for task in tasks):
        remedy = "predict with the model as it is: a score has no probability"
        raise Fault("a task with labels to calibrate", f"tasks with a score alone, {scored}", remedy)
    if not validation:
        raise Fault("labelled validation rows to calibrate on", "none", "give the run's domains a validation split")
    if scored and not quiet:
        info(f"not calibrated, since they have a score alone: {scored}")
    validation = {task: with_limits(logits) for task, logits in validation.items()}
    test = {task: replace(its, limits=validation[task].limits) for task, its in test.items() if task in validation}
    calibrations = {task: fit_calibration(logits, level) for task, logits in validation.items()}
    if conformal is not None:
        calibrations = with_label_sets(calibrations, validation, conformal)
    report = calibration_report(folder, calibrations, validation, test, predictor.routing)
    calibrated = {task: test[task].cooled(its.temperature) for task, its in calibrations.items() if task in test}
    if sets_report := label_set_report(calibrations, calibrated, model.labels.domain_by_task):
        report = report.model_copy(update={"label_sets": sets_report})
    write_calibration(folder, calibrations, predictor.routing)
    target = work.out / EVALUATION / folder.name
    write_json(target / CALIBRATION, report)
    before_and_after = _before_and_after(test or validation, calibrations)
    write_reliability_chart(target / "reliability.png", "test" if test else "validation", before_and_after)
    write_risk_coverage_chart(target / "risk_coverage.png", _by_split(validation, test, calibrations))
    return report


def collect_logits(predictor: TorchPredictor, rows: Dataset, title: str, quiet: bool) -> LogitsByTask:
    """Logits of the labelled rows by task, at temperature 1."""
    evaluated = evaluate_rows(predictor, rows, title=title, quiet=quiet)
    return logits_by_task(evaluated, predictor.model.labels)


def fit_calibration(task: TaskLogits, level: float = DEFAULT_LEVEL) -> TaskCalibration:
    """Fit the temperature, the risk–coverage curve and, of a multi-label task, the thresholds of the labels of a task.

    With fewer than `MIN_ROWS` rows the temperature is 1 and the curve is empty.

    Args:
        level: confidence level of the curve's lower bounds.
    """
    temperature, remark = choose_temperature(task)
    task = with_limits(task)
    curve = risk_coverage_curve(task.confidence(temperature), task.correct, level)
    thresholds = task.thresholds(temperature)
    return TaskCalibration(
        temperature=temperature,
        rows=len(task.true),
        remark=remark,
        level=level,
        curve=curve,
        label_thresholds=None if thresholds is None else dict(zip(task.labels, thresholds.tolist(), strict=True)),
    )


def with_limits(task: TaskLogits) -> TaskLogits:
    """A multi-label task with the limits that its own rows give, unless it has some; any other task as it is.

    Thresholds on probabilities at temperature 1 become limits on logits, so that no temperature changes a decision.
    """
    if not task.own_kind.is_set or task.limits is not None:
        return task
    thresholds = choose_thresholds(task.probabilities(1.0), task.truth)  # (K,)
    return replace(task, limits=task.own_kind.logits(thresholds))


def calibration_report(
    folder: Path,
    calibrations: Mapping[str, TaskCalibration],
    validation: LogitsByTask,
    test: LogitsByTask,
    routing: Routing = "soft",
) -> CalibrationReport:
    """Metrics before and after calibration, as `calibrate` returns them."""
    tasks = {}
    for task, calibration in calibrations.items():
        report = TaskCalibrationReport(
            temperature=calibration.temperature,
            remark=calibration.remark,
            validation=_metrics(validation[task], calibration.temperature),
            abstain={
                f"{accuracy:.2f}": _operating_point(calibration, accuracy, test.get(task))
                for accuracy in TARGET_ACCURACIES
            },
        )
        if calibration.label_thresholds is not None:
            report = report.model_copy(update={"label_thresholds": calibration.label_thresholds})
        if task in test:
            report = report.model_copy(update={"test": _metrics(test[task], calibration.temperature)})
        tasks[task] = report
    level = next((calibration.level for calibration in calibrations.values()), None)
    return CalibrationReport(model=str(folder), routing=routing, level=level, tasks=tasks)


def _metrics(task: TaskLogits, temperature: float) -> SplitCalibration:
    metrics = pair_calibration_metrics if task.own_kind.is_set else calibration_metrics
    truth = task.truth if task.own_kind.is_set else task.true
    before, after = (metrics(task.probabilities(t), truth) for t in (1.0, temperature))
    report = SplitCalibration(rows=len(task.true), accuracy=float(task.correct.mean()), before=before, after=after)
    if not task.own_kind.is_set:
        return report
    sides = {"macro_f1": task, "macro_f1_default": replace(task, limits=None)}
    return report.model_copy(update={name: _macro_f1(side) for name, side in sides.items()})


def _macro_f1(task: TaskLogits) -> float:
    """Mean F1 of the labels of a multi-label task."""
    predicted = task.own_kind.chosen(task.probabilities(1.0), task.thresholds(1.0))  # (N, K)
    return float(f1_score(task.truth, predicted, average="macro", zero_division=0))


def _operating_point(calibration: TaskCalibration, accuracy: float, test: TaskLogits | None) -> OperatingPoint:
    """Threshold and coverage at a target accuracy; without a threshold, how many validation rows it takes at least.

    Args:
        calibration: with bounds.
    """
    assert calibration.level is not None
    if (point := find_point(calibration.curve, accuracy, calibration.level)) is None:
        needed = rows_needed(calibration.curve, accuracy, calibration.level)
        return OperatingPoint(threshold=None, rows_needed=needed)
    report = OperatingPoint(
        threshold=point.threshold,
        coverage=point.rows / calibration.rows,
        accuracy=point.accuracy,
        lower=point.lower,
    )
    if test is None:
        return report
    retained = test.confidence(calibration.temperature) >= point.threshold  # (N,)
    return report.model_copy(update={"test": retained_rows(retained, test.correct)})


def _before_and_after(tasks: LogitsByTask, calibrations: Mapping[str, TaskCalibration]) -> dict[str, CalibrationSeries]:
    return {
        task: {
            name: logits.reliability(t)
            for name, t in (
                ("T = 1", 1.0),
                (f"T = {calibrations[task].temperature:.2f}", calibrations[task].temperature),
            )
        }
        for task, logits in tasks.items()
        if task in calibrations
    }


def _by_split(
    validation: LogitsByTask, test: LogitsByTask, calibrations: Mapping[str, TaskCalibration]
) -> dict[str, CalibrationSeries]:
    return {
        task: {
            name: (split[task].confidence(calibration.temperature), split[task].correct)
            for name, split in (("validation", validation), ("test", test))
            if task in split
        }
        for task, calibration in calibrations.items()
    }


def calibration_view(report: CalibrationReport) -> RenderableType:
    """Terminal output of `moe calibrate`."""
    remarks = [Text(f"{task}: {its.remark}") for task, its in report.tasks.items() if its.remark]
    thresholds = [_describe_thresholds(task, its) for task, its in report.tasks.items() if its.label_thresholds]
    sets = [label_set_view(report.label_sets)] if report.label_sets is not None else []
    if report.routing != "soft":
        remarks.append(Text(f"fitted with {report.routing} routing: thresholds and label sets hold for no other"))
    return Group(_metrics_table(report), *remarks, *thresholds, _abstention_table(report), *sets)


def _describe_thresholds(task: str, report: TaskCalibrationReport) -> Text:
    """The thresholds of a multi-label task, with the macro-F1 at 0.5 and at these thresholds."""
    gains = ", ".join(
        f"{name} {split.macro_f1_default:.3f} → {split.macro_f1:.3f}"
        for name, split in report.splits().items()
        if split.macro_f1 is not None and split.macro_f1_default is not None
    )
    limits = ", ".join(f"{label} {value:.3f}" for label, value in (report.label_thresholds or {}).items())
    return Text(f"{task}: a label is predicted from the probability {limits}; macro-F1 at 0.5 → at these: {gains}")


def _metrics_table(report: CalibrationReport) -> Table:
    title = "before → after; ECE with 15 bins of equal width, Brier score 0 to 2, log loss in nats"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "T", "split", "rows", "ECE", "Brier", "log loss"):
        table.add_column(name, justify="left" if name in ("task", "split") else "right", no_wrap=True)
    for task, calibration in report.tasks.items():
        splits = calibration.splits()
        for i, (name, split) in enumerate(splits.items()):
            first_cells = ("", "") if i else (task, f"{calibration.temperature:.2f}")
            before, after = split.before, split.after
            arrows = [
                f"{before.ece:.3f} → {after.ece:.3f}",
                f"{before.brier:.3f} → {after.brier:.3f}",
                f"{before.log_loss:.3f} → {after.log_loss:.3f}",
            ]
            table.add_row(*first_cells, name, str(split.rows), *arrows, end_section=i == len(splits) - 1)
    return table


def _abstention_table(report: CalibrationReport) -> Table:
    assert report.level is not None
    title = (
        f"abstention: moe infer --abstain ACCURACY\nlevel {report.level:g}: on texts like the validation rows, a "
        f"threshold misses its target accuracy in at most {1 - report.level:.0%} of calibrations"
    )
    table = Table(title=title, title_justify="left", header_style="bold")
    columns = (
        "task",
        "target\naccuracy",
        "confidence\nthreshold",
        "validation\ncoverage",
        "test\ncoverage",
        "test\naccuracy",
        "95 %",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, calibration in report.tasks.items():
        for i, (accuracy, point) in enumerate(calibration.abstain.items()):
            last = i == len(calibration.abstain) - 1
            table.add_row(task if i == 0 else "", accuracy, *_point_cells(point), end_section=last)
    return table


def _point_cells(point: OperatingPoint | None) -> list[RenderableType]:
    if point is None or point.threshold is None:
        needed = f"needs at least\n{point.rows_needed:,} rows" if point and point.rows_needed else ""
        return [Text("out of reach", style="dim"), Text(needed, style="dim")]
    test = point.test
    cells: list[RenderableType] = [f"{point.threshold:.3f}", f"{point.coverage:.0%}"]
    cells.append("–" if test is None else f"{test.coverage:.0%}")
    if test is None or test.accuracy is None or test.accuracy_interval is None:
        return cells
    return [*cells, f"{test.accuracy:.3f}", format_interval(test.accuracy_interval)]
