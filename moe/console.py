"""What a person sees while work runs: a rich bar with rate and time left on a terminal, plain lines in a pipe.

It knows of no model; the loops that use it tell it where they are. How much is told is decided here alone.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import replace

from rich import table as rich_table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.logging import RichHandler
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from experts.errors import Fault

_NOT_MAIN_PROCESS = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
console = Console(stderr=True, quiet=_NOT_MAIN_PROCESS)
_VERBOSE = False


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """How much a person is told from now on, in this process.

    Args:
        quiet: no bar and no note; results and errors are others' to print.
        verbose: what the libraries below log is shown too.

    Raises:
        Fault: when both are asked for.
    """
    global _VERBOSE
    if quiet and verbose:
        raise Fault("--quiet or --verbose", "both", "leave one out")
    console.quiet, _VERBOSE = quiet or _NOT_MAIN_PROCESS, verbose and not _NOT_MAIN_PROCESS
    if _VERBOSE:
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.NOTSET)  # silenced in moe/__init__.py
        logging.basicConfig(level=logging.INFO, handlers=[RichHandler(console=console, show_path=False)], force=True)


def is_verbose() -> bool:
    """Whether libraries may log."""
    return _VERBOSE


_SUPPRESSED: ContextVar[bool] = ContextVar("hushed", default=False)


@contextmanager
def suppress_output() -> Iterator[None]:
    """Say nothing and draw no bar while it lasts, for work that is done for its measure alone."""
    before = _SUPPRESSED.set(True)
    try:
        yield
    finally:
        _SUPPRESSED.reset(before)


class RateColumn(ProgressColumn):
    """Finished units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else f"… {self.unit}/s", style="cyan")


@contextmanager
def progress_bar(title: str, total: int | None, unit: str, quiet: bool = False) -> Iterator["Meter"]:
    """A progress bar for the time of the block; nothing is drawn off a terminal or when quiet."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(unit)]
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=quiet or console.quiet or _SUPPRESSED.get() or not console.is_terminal,
    ) as progress:
        yield Meter(progress, title, total)


class Meter:
    """Moves one bar."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self.progress, self.task = progress, progress.add_task(title, total=total, note="")

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Move on by `count` units."""
        self.progress.update(self.task, advance=count)
        if note is not None:
            self.progress.update(self.task, note=note)


def info(text: str) -> None:
    """One line for people, on standard error."""
    if not _SUPPRESSED.get():
        console.print(text, highlight=False, soft_wrap=True)


def format_duration(seconds: float) -> str:
    """A length of time in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


MIN_TEXT_WIDTH = 16
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
    narrow = longest if column.justify == "right" else min(longest, MIN_TEXT_WIDTH)
    if column.ratio is not None:
        narrow = max(narrow, min(MIN_TEXT_WIDTH, widest))
    return Measurement(max(narrow, head.minimum), max(widest, narrow))


def _plain(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
