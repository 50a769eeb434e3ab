"""Tests for status lines, progress bars and the verbosity of the process."""

import io
import logging
import re
from collections.abc import Iterator

import pytest
from rich.console import Console

from moe import console as console_module
from moe.console import console, info, is_verbose, progress_bar, set_verbosity, suppress_output
from moe.errors import Fault


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """Output of the console on a simulated terminal; logging is restored afterwards."""
    stream = io.StringIO()
    monkeypatch.setattr(console, "_file", stream)
    monkeypatch.setattr(console, "_force_terminal", True)
    monkeypatch.setattr(console, "_environ", {"TERM": "xterm", "COLUMNS": "100", "LINES": "20"})
    monkeypatch.setattr(console, "quiet", False)
    monkeypatch.setattr(console_module, "_VERBOSE", False)
    handlers, level = list(logging.root.handlers), logging.root.level
    yield stream
    logging.root.handlers, logging.root.level = handlers, level


def printed_output(screen: io.StringIO) -> str:
    """Print a status line and a progress bar; return what appears on the screen."""
    screen.truncate(0)
    info("a status line")
    with progress_bar("work", 3, "text") as meter:
        meter.advance(2)
    return screen.getvalue()


def test_progress_bar_shows_rate_and_time_left(screen: io.StringIO) -> None:
    with progress_bar("work", 3, "text") as meter:
        meter.advance(2)
        rendered = io.StringIO()
        Console(file=rendered, width=100).print(meter.progress.get_renderable())
    assert re.search(r"work.* 2/3 .*text/s +-?\d?:?--?:\S+|work.* 2/3 .*text/s +\d:\d\d:\d\d", rendered.getvalue())


def test_quiet_and_suppressed_output_print_nothing(screen: io.StringIO) -> None:
    set_verbosity(quiet=True, verbose=False)
    assert printed_output(screen) == ""
    set_verbosity(quiet=False, verbose=False)
    with suppress_output():
        assert printed_output(screen) == ""


def test_verbose_shows_log_messages_of_libraries(screen: io.StringIO) -> None:
    assert not is_verbose()
    set_verbosity(quiet=False, verbose=True)
    assert is_verbose()
    logging.getLogger("some.library").info("a log line")
    assert "a log line" in screen.getvalue()


def test_quiet_and_verbose_together_are_refused(screen: io.StringIO) -> None:
    with pytest.raises(Fault, match="Remove one of them"):
        set_verbosity(quiet=True, verbose=True)


def test_process_of_another_rank_prints_nothing_even_if_verbose(
    screen: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(console_module, "_NOT_MAIN_PROCESS", True)
    set_verbosity(quiet=False, verbose=True)
    assert printed_output(screen) == ""
    assert not is_verbose()
