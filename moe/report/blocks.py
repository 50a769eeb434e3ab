"""Building blocks of a report: figures, tables, example texts, and the sections that contain them."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Protocol

Cells = Sequence[Sequence[str]]
MAX_COLUMNS, MAX_CLASS_COLUMNS, MAX_NARROW_COLUMNS = 6, 8, 12
"""Maximum number of columns that fit next to the fixed ones: of metrics of models, of a class, and of short numbers."""


@dataclass(frozen=True)
class ReportFigure:
    """A plot of a stage, or of the entire run if `stage` is empty.

    Args:
        stage: name of the stage, or empty.
        name: name of the plot, unique within the stage.
        caption: text below the plot.
        png: the image.
        alt: alternative text for readers who cannot see the image.
    """

    stage: str
    name: str
    caption: str
    png: bytes
    alt: str = ""

    @property
    def file_name(self) -> str:
        """Name of its file."""
        return f"{self.stage.replace('/', '-')}-{self.name}.png" if self.stage else f"{self.name}.png"

    @property
    def data_uri(self) -> str:
        """The image as a data URI, which needs no file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class ReportTable:
    """A table of formatted cells.

    Args:
        title: title, or empty.
        header: column names.
        rows: cells by row.
            A line break in a cell begins a second line in small print.
        text_columns: names of the columns that hold text; the first column holds names, all others numbers.
        is_mean_last: the last row is the mean of the others, if there are several.
    """

    title: str
    header: Sequence[str]
    rows: Cells
    text_columns: Sequence[str] = ()
    is_mean_last: bool = False


@dataclass(frozen=True)
class TextExample:
    """A text of the test data, with its label and predictions as short annotations."""

    text: str
    annotations: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A section of the report; `missing` names what is not available and the command that creates it."""

    title: str
    note: str = ""
    tables: list[ReportTable] = field(default_factory=list)
    figures: list[ReportFigure] = field(default_factory=list)
    examples: list[TextExample] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its id in the HTML page."""
        return self.title.lower().replace(" ", "-").replace(",", "")


def split_table(table: ReportTable, fixed: int, maximum: int) -> Iterator[ReportTable]:
    """Split a table that is wider than the page into several, each with the fixed columns on the left.

    Args:
        fixed: number of fixed columns.
        maximum: maximum number of other columns in a table.
    """
    count = len(table.header) - fixed
    tables = max(1, -(-count // maximum))
    bounds = [fixed + i * count // tables for i in range(tables + 1)]
    for i, part in enumerate(slice(*pair) for pair in pairwise(bounds)):
        title = table.title if i == 0 else f"{table.title} (continued)"
        rows = [[*row[:fixed], *row[part]] for row in table.rows]
        yield replace(table, title=title, header=[*table.header[:fixed], *table.header[part]], rows=rows)


def number_columns(table: ReportTable, fixed: int) -> ReportTable:
    """Number the columns after the fixed ones, and the rows with the same names, if the names do not fit."""
    names = table.header[fixed:]
    if len(names) <= MAX_COLUMNS:
        return table
    numbers = {name: str(i) for i, name in enumerate(names, 1)}
    rows = [[f"{numbers[row[0]]} {row[0]}" if row[0] in numbers else row[0], *row[1:]] for row in table.rows]
    known = {row[0] for row in table.rows}
    others = [f"{number} {name}" for name, number in numbers.items() if name not in known]
    title = f"{table.title} ({', '.join(others)})" if others else table.title
    return replace(table, title=title, header=[*table.header[:fixed], *numbers.values()], rows=rows)


class RowOfRun(Protocol):
    """A row of a report, of one of its runs."""

    @property
    def run(self) -> str:
        """Label of the run."""


def add_run_column(table: ReportTable, rows: Sequence[RowOfRun], several: bool) -> ReportTable:
    """Add the label of the run as second column if there are several runs."""
    if not several:
        return table
    cells = [[first, row.run, *rest] for row, (first, *rest) in zip(rows, table.rows, strict=True)]
    return replace(table, header=[table.header[0], "run", *table.header[1:]], rows=cells)


def format_cells(*values: tuple[float | str | None, str]) -> list[str]:
    """Format values by their format specifications; an en dash where there is none."""
    return ["–" if value is None else format(value, spec) for value, spec in values]


def optional_figure(name: str, png: bytes | None, caption: str, alt: str) -> list[ReportFigure]:
    """Return the figure of the run in a list, empty if there is no image."""
    return [ReportFigure("", name, caption, png, alt)] if png else []
