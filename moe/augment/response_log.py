"""Log of a language model's responses, one JSON line each, written as they arrive so that a stopped run can resume.

`moe.augment.pipeline` defines the keys. A line that was cut off by a crash is ignored.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from experts.atomic_io import os_errors_as_faults
from experts.json_io import parse_json

RESPONSE_LOG = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class LoggedResponse:
    """A response as logged: its text without thinking, and whether it was truncated."""

    text: str
    truncated: bool


class ResponseLog:
    """An open log; each response is flushed before the next is added."""

    def __init__(self, stream: IO[str], folder: Path) -> None:
        self._stream, self._folder = stream, folder

    def add(self, key: str, response: LoggedResponse) -> None:
        """Append a response."""
        with os_errors_as_faults(self._folder):  # ASCII, since a model may send a lone surrogate
            line = json.dumps({"key": key, "text": response.text, "cut": response.truncated})
            self._stream.write(line + "\n")
            self._stream.flush()


@contextmanager
def open_log(path: Path) -> Iterator[ResponseLog]:
    """Open a log for appending, starting on a new line.

    Raises:
        Fault: if it cannot be written.
    """
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        incomplete = _last_line_is_incomplete(path)
        stream = path.open("a", encoding="utf-8")
    with stream:
        if incomplete:
            stream.write("\n")
        yield ResponseLog(stream, path.parent)


def _last_line_is_incomplete(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"


def read_log(path: Path) -> dict[str, LoggedResponse]:
    """Read the responses by key, the last one of each key; empty if there is no log."""
    responses: dict[str, LoggedResponse] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                responses |= _parse_line(line)
    return responses


def _parse_line(line: str) -> dict[str, LoggedResponse]:
    try:
        entry = parse_json(line)
        return {str(entry["key"]): LoggedResponse(str(entry["text"]), bool(entry["cut"]))}
    except (ValueError, LookupError, TypeError):
        return {}
