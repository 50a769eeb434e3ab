"""Rows for a person to review or to label, and their table on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.text import Text

from experts.json_io import OMIT_NONE
from moe.console import Table

_SHOWN_ROWS = 20


@dataclass(frozen=True, kw_only=True)
class ReviewRow:
    """A row to review or to label.

    Args:
        rank: from 1, the most urgent row.
        line: line in the file.
        id: of the row.
        text: of the row.
        target: entity that the label is about; None without one.
        label: the row's label; None if it has none yet.
        suggested: label that it probably has.
        probability: of `suggested`, 0 to 1.
        score: by which the rows are chosen.
    """

    rank: int
    line: int
    id: str
    text: str
    target: str | None = field(default=None, metadata=OMIT_NONE)
    label: str | None
    suggested: str
    probability: float
    score: float


def review_table(title: str, rows: Sequence[ReviewRow]) -> Table:
    """Build the table of the first rows, with the number of the others in its caption."""
    more = f"and {len(rows) - _SHOWN_ROWS:,} more rows: write them with --out" if len(rows) > _SHOWN_ROWS else None
    table = Table(title=title, title_justify="left", header_style="bold", caption=more, caption_justify="left")
    labelled = any(row.label is not None for row in rows)
    targeted = any(row.target is not None for row in rows)
    table.add_column("line", justify="right", no_wrap=True)
    table.add_column("text", ratio=1)
    for name in (*(["target"] if targeted else []), *(["label"] if labelled else []), "suggested"):
        table.add_column(name, no_wrap=True)
    for name in ("probability", "score"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:_SHOWN_ROWS]:
        names = [*([row.target or ""] if targeted else []), *([row.label or ""] if labelled else []), row.suggested]
        cells = [str(row.line), row.text, *names]
        table.add_row(*map(Text, cells), f"{row.probability:.3f}", f"{row.score:.3f}")
    return table
