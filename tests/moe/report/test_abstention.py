"""Claims about the report's table of thresholds: the bound is in its title, and what an accuracy out of reach needs."""

from moe.report.abstention import HEADER, abstention_tables
from moe.results.calibration import CalibrationReport, OperatingPoint, RetainedRows, TaskCalibrationReport

TEST = RetainedRows(rows=50, coverage=0.5, accuracy=0.94, accuracy_interval=(0.84, 0.98))
POINTS = {
    "0.80": OperatingPoint(
        threshold=0.0, coverage=1.0, accuracy=0.88, lower=0.85, test=TEST.model_copy(update={"coverage": 1.0})
    ),
    "0.90": OperatingPoint(
        threshold=0.75, coverage=0.55, accuracy=0.95, lower=0.91, test=RetainedRows(rows=0, coverage=0.0)
    ),
    "0.95": OperatingPoint(threshold=None, rows_needed=1400),
    "0.99": OperatingPoint(threshold=None, rows_needed=None),
}


def test_table_states_the_bound_and_how_many_rows_an_accuracy_out_of_reach_needs() -> None:
    (table,) = abstention_tables(
        CalibrationReport(level=0.9, tasks={"news": TaskCalibrationReport(temperature=1.0, abstain=POINTS)})
    )
    assert "in at most 10% of calibrations" in table.title
    assert all(len(row) == len(HEADER) for row in table.rows)
    assert [list(row[2:]) for row in table.rows] == [
        ["0.000", "100%", "100%", "0.940", "0.840–0.980"],
        ["0.750", "55%", "0%", "", ""],
        ["out of reach, needs at least 1,400 validation rows", "", "", "", ""],
        ["out of reach", "", "", "", ""],
    ]


def test_calibration_by_an_earlier_release_has_no_table() -> None:
    calibration = {"model": "a", "tasks": {"news": {"temperature": 1.0, "abstain": {"0.80": None}}}}
    assert list(abstention_tables(CalibrationReport.model_validate(calibration))) == []
