"""Calibration in a run's report: confidence on test rows, temperatures, and abstention by thresholds."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe.plots.calibration import CalibrationSeries, reliability_chart, risk_coverage_chart
from moe.report.blocks import ReportTable, Section, format_cells, optional_figure
from moe.runs.findings import EvaluatedRow, Findings

CALIBRATION = "Calibration"
HEADER = ("task", "target accuracy", "threshold", "validation coverage", "test coverage", "test accuracy", "95 %")
RELIABILITY_CAPTION = (
    "Accuracy by confidence. On the diagonal, confidence is calibrated: of predictions with confidence .9, nine in ten "
    "are correct. Bars are 95 % intervals."
)
RISK_CAPTION = "Error rate of the most confident predictions by coverage: what abstaining on all others would gain."


def calibration_section(findings: Findings) -> Section:
    """Reliability and risk–coverage: the charts of `moe calibrate`, else those of the evaluated test rows."""
    reliability = _saved_chart(findings.folder, "reliability") or reliability_chart(
        "test", {task: {"as predicted": series["test"]} for task, series in _confidence_series(findings.rows).items()}
    )
    risk = _saved_chart(findings.folder, "risk_coverage") or risk_coverage_chart(_confidence_series(findings.rows))
    figures = [
        *optional_figure(
            "test-reliability", reliability, RELIABILITY_CAPTION, "Chart: accuracy by confidence, one panel per task."
        ),
        *optional_figure(
            "test-risk_coverage", risk, RISK_CAPTION, "Chart: error rate by coverage, one panel per task."
        ),
    ]
    if not findings.calibration:
        missing = [f"{findings.model} is not calibrated; moe calibrate fits a temperature and plots before and after."]
        return Section(CALIBRATION, figures=figures, missing=missing)
    header = ["task", "T", "split", "ECE before", "after", "Brier before", "after", "log loss before", "after"]
    rows = [
        [task, f"{metrics['temperature']:.2f}", split]
        + [
            cell
            for name in ("ece", "brier", "log_loss")
            for side in ("before", "after")
            for cell in format_cells(metrics[split][side], (name, ".3f"))
        ]
        for task, metrics in findings.calibration.get("tasks", {}).items()
        for split in ("validation", "test")
        if split in metrics
    ]
    table = ReportTable("Temperature scaling", header, rows, text_columns=("split",))
    return Section(CALIBRATION, "", [table, *abstention_tables(findings.calibration)], figures)


def _saved_chart(folder: Path, name: str) -> bytes | None:
    path = folder / f"{name}.png"
    return path.read_bytes() if path.is_file() else None


def _confidence_series(rows: Sequence[EvaluatedRow]) -> dict[str, CalibrationSeries]:
    by_task: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    return {
        task: {"test": (np.array([row.confidence for row in own]), np.array([row.correct for row in own]))}
        for task, own in by_task.items()
    }


def abstention_tables(calibration: Mapping[str, Any]) -> Iterator[ReportTable]:
    """Yield the table of thresholds; none for a calibration by an earlier release, whose thresholds have no bound.

    Args:
        calibration: the report of `moe.evaluation.calibrate.calibrate`, or empty.
    """
    level = calibration.get("level")
    if level is None:
        return
    title = (
        f"Abstention: on texts like the validation rows, a threshold misses its target accuracy in at most "
        f"{1 - level:.0%} of calibrations"
    )
    rows = [
        [task, accuracy, *_point_cells(point)]
        for task, content in calibration.get("tasks", {}).items()
        for accuracy, point in content.get("abstain", {}).items()
    ]
    yield ReportTable(title, HEADER, rows, text_columns=("threshold",))


def _point_cells(point: Mapping[str, Any]) -> list[str]:
    if point.get("threshold") is None:
        needed = point.get("rows_needed")
        return ["out of reach" + (f", needs at least {needed:,} validation rows" if needed else ""), "", "", "", ""]
    test = point.get("test") or {}
    cells = [f"{point['threshold']:.3f}", f"{point['coverage']:.0%}", f"{test['coverage']:.0%}" if test else ""]
    if "accuracy" not in test:
        return [*cells, "", ""]
    low, high = test["accuracy_interval"]
    return [*cells, f"{test['accuracy']:.3f}", f"{low:.3f}–{high:.3f}"]
