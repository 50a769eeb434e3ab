"""What a report is made of: pictures, tables, texts worth reading, and the sections that hold them.

What is in them is `moe.report.sections`' and `moe.report.html`'s.
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field

Cells = Sequence[Sequence[str]]


@dataclass(frozen=True)
class ReportFigure:
    """A picture: of a stage, or, with none, of the whole run; `alt` says what it shows where it cannot be seen."""

    stage: str
    name: str
    caption: str
    png: bytes
    alt: str = ""

    @property
    def file(self) -> str:
        """Its file's name."""
        return f"{self.stage.replace('/', '-')}-{self.name}.png" if self.stage else f"{self.name}.png"

    @property
    def embedded(self) -> str:
        """Its bytes as an address that needs no file."""
        return "data:image/png;base64," + base64.b64encode(self.png).decode("ascii")


@dataclass(frozen=True)
class ReportTable:
    """A table: cells as text; the first column is a name, those called as in `words` hold words, others figures."""

    title: str
    head: Sequence[str]
    rows: Cells
    words: Sequence[str] = ()


@dataclass(frozen=True)
class TextExample:
    """A text worth reading: what it is, what was said, and what each expert alone said."""

    text: str
    remarks: Sequence[str]


@dataclass(frozen=True)
class Section:
    """A part of the page; `missing` says what is not there, and which command makes it."""

    title: str
    note: str = ""
    tables: list[ReportTable] = field(default_factory=list)
    pictures: list[ReportFigure] = field(default_factory=list)
    quotes: list[TextExample] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its name in addresses."""
        return self.title.lower().replace(" ", "-").replace(",", "")
