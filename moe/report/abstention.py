"""Tables of a run's report about abstention: the thresholds of `moe calibrate`, and what they give on test rows."""

from collections.abc import Iterator, Mapping
from typing import Any

from moe.report.blocks import ReportTable

HEADER = ("task", "target accuracy", "threshold", "validation coverage", "test coverage", "test accuracy", "95 %")


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
