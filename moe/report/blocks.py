"""Building blocks of a report: figures, tables, example texts, and the sections that contain them."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

Cells = Sequence[Sequence[str]]


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
        text_columns: names of the columns that hold text; the first column holds names, all others numbers.
    """

    title: str
    header: Sequence[str]
    rows: Cells
    text_columns: Sequence[str] = ()


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
