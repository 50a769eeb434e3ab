"""Section of a report on the data: the rows of each task, and the labels of each split."""

from moe.data.splitting.settings import SPLITS
from moe.data.task_reports import TaskReport
from moe.plots.results import label_distribution_chart
from moe.report.blocks import ReportTable, Section, optional_figure
from moe.runs.findings import Findings

DATA = "Data"


def data_section(findings: Findings) -> Section:
    """Build the section."""
    if not findings.data:
        return Section(DATA, missing=["the run folder has no prepared rows; training creates them."])
    splits, removed = ["train", "validation", "test"], ["near duplicates removed", "left out"]
    header = ["task", "rows", *splits, *removed, "rejected", "duplicates"]
    rows = [[report.task, *_data_counts(report)] for report in findings.data]
    note = (
        "Rows are those of the three splits, near duplicates removed, and rows left out: beyond max_train_rows or "
        "max_validation_rows, or with a text that is held out elsewhere. Rejected rows and duplicates are not among "
        "them; rejected rows are listed with reasons in rejected.csv, next to the prepared rows."
    )
    figures = optional_figure(
        "data-labels",
        label_distribution_chart(findings.data),
        "Share of each label in each split; number of rows in brackets.",
        "Bar chart: label distribution by split.",
    )
    return Section(DATA, note, [ReportTable("Rows of each task", header, rows)], figures)


def _data_counts(report: TaskReport) -> list[str]:
    sizes = [report.splits.get(split) for split in SPLITS]
    splits, near = [size.rows if size else 0 for size in sizes], sum(report.near_duplicates.values())
    left_out = report.rows - sum(splits) - near
    counts = [report.rows, *splits, near, left_out, report.rejected, report.duplicates]
    return [f"{count:,}" for count in counts]
