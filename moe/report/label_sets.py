"""Tables of conformal label sets, for the terminal and for a run's report: coverage and size by task and domain."""

from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.report.blocks import ReportTable
from moe.results.calibration import LabelSetReport, SetCoverage


def label_set_view(report: LabelSetReport) -> RenderableType:
    """Terminal table of the sets on test rows, and below it the tasks without sets."""
    title = f"label sets: moe infer --label-sets\n{_guarantee(report)}"
    table = Table(title=title, title_justify="left", header_style="bold")
    for i, name in enumerate(_header(report)):
        table.add_column(name, justify="right" if i else "left")
    for cells in _rows(report):
        table.add_row(*cells)
    return Group(table, *map(Text, _remarks(report)))


def label_set_table(report: LabelSetReport) -> ReportTable:
    """Table of the sets in a run's report."""
    header = [name.replace("\n", " ") for name in _header(report)]
    remarks = [f"{remark}." for remark in _remarks(report)]
    return ReportTable(" ".join([f"Label sets: {_guarantee(report)}.", *remarks]), header, list(_rows(report)))


def _guarantee(report: LabelSetReport) -> str:
    return (
        f"level {report.level:g}: on texts like the validation rows, a set holds the true label in at least "
        f"{report.level:.4g} of cases, on average over calibrations"
    )


def _header(report: LabelSetReport) -> list[str]:
    fitted = ["task", "fitted\non rows", "least p\nin a set"]
    sets = ["test\nrows", "coverage", "95 %", "labels\nper set", "one\nlabel"]
    return [*fitted, *sets, f"abstain {report.level:g}\nanswers", "accuracy\nof these"]


def _rows(report: LabelSetReport) -> Iterator[list[str]]:
    """Cells of each task, and of each domain that pools several tasks."""
    for task, its in report.tasks.items():
        yield [task, *_cells(its)]
    if len(report.domains) < len(report.tasks):
        for domain, its in report.domains.items():
            yield [f"domain {domain}", *_cells(its)]


def _cells(its: SetCoverage) -> list[str]:
    cells = ["" if its.validation_rows is None else f"{its.validation_rows:,}"]
    cells += ["" if its.bound is None else f"{its.bound:.3f}", f"{its.rows:,}"]
    if its.coverage is None or its.coverage_interval is None:
        return [*cells, *[""] * 6]
    low, high = its.coverage_interval
    cells += [f"{its.coverage:.3f}", f"{low:.3f}–{high:.3f}", f"{its.mean_size:.2f}", f"{its.single:.0%}"]
    if its.abstain is None:
        return [*cells, "out of reach", ""]
    accuracy = its.abstain.accuracy
    return [*cells, f"{its.abstain.coverage:.0%}", "" if accuracy is None else f"{accuracy:.3f}"]


def _remarks(report: LabelSetReport) -> list[str]:
    needed = f"fewer than the {report.rows_needed:,} that sets at level {report.level:g} need"
    return [f"{task}: {rows:,} validation rows, {needed}" for task, rows in report.too_few_rows.items()]
