"""What a person sees while work runs: a rich bar with rate and time left on a terminal, plain lines in a pipe.

It knows of no model; the loops that use it tell it where they are. How much is told is decided here alone.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from experts.errors import Fault

_ONE_OF_MANY = os.environ.get("RANK", "0") != "0"  # of several processes the first one speaks
console = Console(stderr=True, quiet=_ONE_OF_MANY)
_LOUD = False


def set_volume(quiet: bool, verbose: bool) -> None:
    """How much a person is told from now on, in this process.

    Args:
        quiet: no bar and no note; results and errors are others' to print.
        verbose: what the libraries below log is shown too.

    Raises:
        Fault: when both are asked for.
    """
    global _LOUD
    if quiet and verbose:
        raise Fault("--quiet or --verbose", "both", "leave one out")
    console.quiet, _LOUD = quiet or _ONE_OF_MANY, verbose and not _ONE_OF_MANY
    if _LOUD:
        logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.NOTSET)  # silenced in moe/__init__.py
        logging.basicConfig(level=logging.INFO, handlers=[RichHandler(console=console, show_path=False)], force=True)


def loud() -> bool:
    """Whether libraries may log."""
    return _LOUD


_HUSHED: ContextVar[bool] = ContextVar("hushed", default=False)


@contextmanager
def hushed() -> Iterator[None]:
    """Say nothing and draw no bar while it lasts, for work that is done for its measure alone."""
    before = _HUSHED.set(True)
    try:
        yield
    finally:
        _HUSHED.reset(before)


class RateColumn(ProgressColumn):
    """Finished units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """The rate, once there is one."""
        return Text(f"{task.speed:.1f} {self.unit}/s" if task.speed else f"… {self.unit}/s", style="cyan")


@contextmanager
def bar(title: str, total: int | None, unit: str, quiet: bool = False) -> Iterator["Meter"]:
    """A progress bar for the time of the block; nothing is drawn off a terminal or when quiet."""
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(unit)]
    with Progress(
        *columns,
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=console,
        transient=True,
        disable=quiet or console.quiet or _HUSHED.get() or not console.is_terminal,
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


def say(text: str) -> None:
    """One line for people, on standard error."""
    if not _HUSHED.get():
        console.print(text, highlight=False, soft_wrap=True)


def told_time(seconds: float) -> str:
    """A length of time in hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
