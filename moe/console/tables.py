"""Tables that fit the terminal: as they are, narrower, or as a list, so that no figure is broken in two.

What stands in them is told where they are made; every table of ours is one of these.
"""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace

from rich import table as rich_table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column
from rich.text import Text

READABLE = 16
"""A text column may be folded to so many letters, and no further."""


class Table(rich_table.Table):
    """A rich table that knows how narrow it may become.

    Columns of figures (aligned right) break between words at most, those that say `no_wrap` nowhere. Where even that
    does not fit, every row is written below the other, a line a column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table at its width, narrower, or as a list."""
        room = options.max_width - self._edges()
        wanted = [_widths(console, options, column) for column in self.columns]
        if sum(one.maximum for one in wanted) <= room:
            yield from super().__rich_console__(console, options)
        elif sum(one.minimum for one in wanted) <= room:
            yield from self._narrowed(wanted, room).plain(console, options)
        else:
            yield from self._listed()

    def plain(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich draws it."""
        yield from super().__rich_console__(console, options)

    def _edges(self) -> int:
        """What padding and borders take of the width."""
        padding = self.padding[1] + self.padding[3]
        return len(self.columns) * padding + (len(self.columns) + 1 if self.box else 0)

    def _narrowed(self, wanted: list[Measurement], room: int) -> "Table":
        """The same with every column as wide as it must be, and the rest shared out."""
        widths = [one.minimum for one in wanted]
        while (left := room - sum(widths)) > 0:
            short = [i for i, one in enumerate(wanted) if widths[i] < one.maximum]
            for i in sorted(short, key=lambda i: widths[i])[:left]:
                widths[i] += 1
        fitting = copy(self)
        fitting.columns = [replace(column, width=width) for column, width in zip(self.columns, widths, strict=True)]
        return fitting

    def _listed(self) -> Iterator[Text | rich_table.Table]:
        if self.title:
            yield Text(str(self.title), style="italic")
        names = [" ".join(_plain(column.header).split()) for column in self.columns]
        above = ""
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            row = rich_table.Table.grid(padding=(0, 2, 0, 0))
            row.add_column(style="dim", max_width=24)
            row.add_column(overflow="fold")
            above = _plain(cells[0]) or above  # an empty first cell means the one above
            for name, cell in zip(names, (above, *cells[1:]), strict=True):
                if _plain(cell):
                    row.add_row(name, cell)
            yield row
            yield Text("")


def _widths(console: Console, options: ConsoleOptions, column: Column) -> Measurement:
    """How narrow a column may become, and how wide it would be."""
    free = options.update(width=10_000)
    cells = [Measurement.get(console, free, cell) for cell in column.cells]
    head = Measurement.get(console, free, column.header)
    widest = max((one.maximum for one in (head, *cells)), default=0)
    longest = max((one.minimum for one in cells), default=0)
    if column.no_wrap:
        return Measurement(max(widest, head.minimum), widest)
    narrow = longest if column.justify == "right" else min(longest, READABLE)
    if column.ratio is not None:
        narrow = max(narrow, min(READABLE, widest))
    return Measurement(max(narrow, head.minimum), max(widest, narrow))


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
