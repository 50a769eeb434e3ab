"""Progress bars, status lines and tables in the terminal, and the verbosity of this process."""

import codecs
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import replace
from typing import Any

from rich import table as rich_table
from rich.console import Console, ConsoleOptions, RenderResult
from rich.logging import RichHandler
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

from experts.errors import Fault
from experts.json_io import json_object

_NOT_MAIN_PROCESS = os.environ.get("RANK", "0") != "0"  # only rank 0 prints
console = Console(stderr=True, quiet=_NOT_MAIN_PROCESS)
_VERBOSE = False


def set_verbosity(quiet: bool, verbose: bool) -> None:
    """Set the verbosity of this process.

    Args:
        quiet: print no progress bars and no status lines; results and errors are still printed.
        verbose: also show the log messages of the underlying libraries.

    Raises:
        Fault: if both are true.
    """
    global _VERBOSE
    if quiet and verbose:
        raise Fault("--quiet or --verbose", "both", "remove one of them")
    console.quiet, _VERBOSE = quiet or _NOT_MAIN_PROCESS, verbose and not _NOT_MAIN_PROCESS
    if _VERBOSE:
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.NOTSET)  # silenced in moe/__init__.py
        logging.basicConfig(level=logging.INFO, handlers=[RichHandler(console=console, show_path=False)], force=True)


def is_verbose() -> bool:
    """Whether log messages of the underlying libraries are shown."""
    return _VERBOSE


_SUPPRESSED: ContextVar[bool] = ContextVar("suppressed", default=False)


@contextmanager
def suppress_output() -> Iterator[None]:
    """Print no status lines and draw no bars inside the block, for example while cost is being measured."""
    before = _SUPPRESSED.set(True)
    try:
        yield
    finally:
        _SUPPRESSED.reset(before)


def print_json(content: Any) -> None:
    """Print JSON in one line to standard output, at once: as UTF-8, or escaped if the stream has another encoding."""
    sys.stdout.write(format_json(content, getattr(sys.stdout, "encoding", None)) + "\n")
    sys.stdout.flush()


def format_json(content: Any, encoding: str | None) -> str:
    """Return JSON that reads the same as UTF-8 and in an encoding: escaped to ASCII if this is not UTF-8.

    Args:
        content: JSON values, or results as objects of their fields.
        encoding: of the stream; None if it takes strings.
    """
    line = json.dumps(content, ensure_ascii=False, default=json_object)
    if line.isascii():
        return line
    if encoding is None or codecs.lookup(encoding).name == "utf-8":
        return line.encode("utf-8", "backslashreplace").decode()  # escapes of unpaired surrogates are JSON's too
    return json.dumps(content, default=json_object)


class RateColumn(ProgressColumn):
    """Progress column: completed units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Format the rate; an ellipsis before the first update."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else f"… {self.unit}/s", style="cyan")


@contextmanager
def progress_bar(title: str, total: int | None, unit: str, quiet: bool = False) -> Iterator["Meter"]:
    """Show a progress bar during the block; only on a terminal, and not if `quiet`."""
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
    """Advances one progress bar."""

    def __init__(self, progress: Progress, title: str, total: int | None) -> None:
        self.progress, self.task = progress, progress.add_task(title, total=total, note="")

    def advance(self, count: int = 1, note: str | None = None) -> None:
        """Advance by `count` units; `note` replaces the text behind the bar."""
        self.progress.update(self.task, advance=count)
        if note is not None:
            self.progress.update(self.task, note=note)


_status_sink: Callable[[str], None] | None = None


@contextmanager
def redirected_status(sink: Callable[[str], None]) -> Iterator[None]:
    """Give the status lines of this process to `sink`, such as the log of a service, instead of printing them."""
    global _status_sink
    before, _status_sink = _status_sink, sink
    try:
        yield
    finally:
        _status_sink = before


def info(text: str) -> None:
    """Print a status line to standard error."""
    if _SUPPRESSED.get():
        return
    if _status_sink is not None:
        _status_sink(text)
    else:
        console.print(text, highlight=False, soft_wrap=True)


def format_duration(seconds: float) -> str:
    """Format a duration in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


MIN_TEXT_WIDTH = 16
"""Smallest width, in characters, to which a text column is folded."""


class Table(rich_table.Table):
    """A rich table that stays readable in narrow terminals.

    Right-aligned columns (numbers) wrap only between words, `no_wrap` columns never. If the table still does not fit,
    each row is printed as a list with one line per column.
    """

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render at full width, with narrower columns, or as a list."""
        available = options.max_width - self._border_width()
        measurements = [_measure_column(console, options, column) for column in self.columns]
        if sum(measured.maximum for measured in measurements) <= available:
            yield from super().__rich_console__(console, options)
        elif sum(measured.minimum for measured in measurements) <= available:
            yield from self._narrowed(measurements, available).render_as_is(console, options)
        else:
            yield from self._as_list()

    def render_as_is(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Render with the column widths that are set, as `rich.table.Table` does."""
        yield from super().__rich_console__(console, options)

    def _border_width(self) -> int:
        """Characters taken by padding and borders."""
        padding = self.padding[1] + self.padding[3]
        return len(self.columns) * padding + (len(self.columns) + 1 if self.box else 0)

    def _narrowed(self, measurements: list[Measurement], available: int) -> "Table":
        """Copy with every column at its minimum width, plus an equal part of the remaining width."""
        widths = [measured.minimum for measured in measurements]
        while (remaining := available - sum(widths)) > 0:
            growable = [i for i, measured in enumerate(measurements) if widths[i] < measured.maximum]
            for i in sorted(growable, key=lambda i: widths[i])[:remaining]:
                widths[i] += 1
        narrowed = copy(self)
        narrowed.columns = [replace(column, width=width) for column, width in zip(self.columns, widths, strict=True)]
        return narrowed

    def _as_list(self) -> Iterator[Text | rich_table.Table]:
        if self.title:
            yield Text(str(self.title), style="italic")
        names = [" ".join(_plain_text(column.header).split()) for column in self.columns]
        first = ""
        for cells in zip(*(column.cells for column in self.columns), strict=True):
            row = rich_table.Table.grid(padding=(0, 2, 0, 0))
            row.add_column(style="dim", max_width=24)
            row.add_column(overflow="fold")
            first = _plain_text(cells[0]) or first  # an empty first cell repeats the one above
            for name, cell in zip(names, (first, *cells[1:]), strict=True):
                if _plain_text(cell):
                    row.add_row(name, cell)
            yield row
            yield Text("")


def _measure_column(console: Console, options: ConsoleOptions, column: Column) -> Measurement:
    """Smallest acceptable and full width of a column, in characters."""
    unbounded = options.update(width=10_000)
    cells = [Measurement.get(console, unbounded, cell) for cell in column.cells]
    header = Measurement.get(console, unbounded, column.header)
    full = max((measured.maximum for measured in (header, *cells)), default=0)
    longest_word = max((measured.minimum for measured in cells), default=0)
    if column.no_wrap:
        return Measurement(max(full, header.minimum), full)
    minimum = longest_word if column.justify == "right" else min(longest_word, MIN_TEXT_WIDTH)
    if column.ratio is not None:
        minimum = max(minimum, min(MIN_TEXT_WIDTH, full))
    return Measurement(max(minimum, header.minimum), max(full, minimum))


def _plain_text(cell: object) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)
