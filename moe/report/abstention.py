"""Tables of a run's report about abstention: the thresholds of `moe calibrate`, and what they give on test rows."""

from collections.abc import Iterator

from moe.report.blocks import ReportTable
from moe.results.calibration import CalibrationReport, OperatingPoint

HEADER = ("task", "target accuracy", "threshold", "validation coverage", "test coverage", "test accuracy", "95 %")


def abstention_tables(calibration: CalibrationReport) -> Iterator[ReportTable]:
    """Yield the table of thresholds; none for a calibration by an earlier release, whose thresholds have no bound."""
    level = calibration.level
    if level is None:
        return
    title = (
        f"Abstention: on texts like the validation rows, a threshold misses its target accuracy in at most "
        f"{1 - level:.0%} of calibrations"
    )
    rows = [
        [task, accuracy, *_point_cells(point)]
        for task, its in calibration.tasks.items()
        for accuracy, point in its.abstain.items()
    ]
    yield ReportTable(title, HEADER, rows, text_columns=("threshold",))


def _point_cells(point: OperatingPoint | None) -> list[str]:
    if point is None or point.threshold is None:
        needed = point and point.rows_needed
        return ["out of reach" + (f", needs at least {needed:,} validation rows" if needed else ""), "", "", "", ""]
    test = point.test
    cells = [f"{point.threshold:.3f}", f"{point.coverage:.0%}", f"{test.coverage:.0%}" if test else ""]
    if test is None or test.accuracy is None or test.accuracy_interval is None:
        return [*cells, "", ""]
    low, high = test.accuracy_interval
    return [*cells, f"{test.accuracy:.3f}", f"{low:.3f}–{high:.3f}"]
