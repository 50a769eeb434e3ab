"""Claims about what is told while work runs: quiet says nothing, verbose lets libraries speak, one place decides."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from moe import console as progress
from moe.console import progress_bar, console, suppress_output, info, is_verbose, set_verbosity
from moe.errors import Fault


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the console writes, as if on a terminal; the volume is put back."""
    stream = io.StringIO()
    monkeypatch.setattr(console, "_file", stream)
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_environ", {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"})
    monkeypatch.setattr(console, "quiet", False)
    monkeypatch.setattr(progress, "_VERBOSE", False)
    handlers, level = list(logging.root.handlers), logging.root.level
    yield stream
    logging.root.handlers, logging.root.level = handlers, level


def told(screen: io.StringIO) -> str:
    """What notes and a bar leave on the screen."""
    screen.truncate(0)
    info("a note")
    with progress_bar("work", 3, "text") as meter:
        meter.advance(2)
    return screen.getvalue()


def test_a_bar_shows_rate_and_time_left(screen: io.StringIO) -> None:
    with progress_bar("work", 3, "text") as meter:
        meter.advance(2)
        drawn = io.StringIO()
        Console(file=drawn, width=100).print(meter.progress.get_renderable())
    assert re.search(r"work.* 2/3 .*text/s +-?\d?:?--?:\S+|work.* 2/3 .*text/s +\d:\d\d:\d\d", drawn.getvalue())


def test_quiet_leaves_out_notes_and_bars(screen: io.StringIO) -> None:
    set_verbosity(True, False)
    assert told(screen) == ""
    set_verbosity(False, False)
    with suppress_output():
        assert told(screen) == ""


def test_verbose_lets_libraries_speak(screen: io.StringIO) -> None:
    assert not is_verbose()
    set_verbosity(False, True)
    assert is_verbose()
    logging.getLogger("some.library").info("a log line")
    assert "a log line" in screen.getvalue()


def test_both_at_once_are_refused(screen: io.StringIO) -> None:
    with pytest.raises(Fault, match="Leave one out"):
        set_verbosity(True, True)


def test_one_of_many_processes_stays_silent_even_where_it_is_asked_to_speak(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_NOT_MAIN_PROCESS", True)
    set_verbosity(False, True)
    assert told(screen) == ""
    assert not is_verbose()
