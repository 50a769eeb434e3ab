"""The answers of a language model on disk, a line each as they come, so that a stopped run goes on where it was.

What they are answers to is told by their keys, which `moe.augment.pipeline` makes; a line cut by a crash is passed
over.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from experts.atomic_io import os_errors_as_faults

RESPONSE_LOG = "answers.jsonl"


@dataclass(frozen=True, slots=True)
class LoggedResponse:
    """An answer as it is kept: its text without thoughts, and whether it was cut."""

    text: str
    truncated: bool


class ResponseLog:
    """Takes answers one by one; each is on disk before the next."""

    def __init__(self, stream: IO[str], folder: Path) -> None:
        self._stream, self._folder = stream, folder

    def add(self, key: str, answer: LoggedResponse) -> None:
        """Add an answer."""
        with os_errors_as_faults(self._folder):  # ASCII, since a model may send half a surrogate pair
            self._stream.write(json.dumps({"key": key, "text": answer.text, "cut": answer.truncated}) + "\n")
            self._stream.flush()


@contextmanager
def open_log(path: Path) -> Iterator[ResponseLog]:
    """Open a log to add to, on a line of its own.

    Raises:
        Fault: when it cannot be written.
    """
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        torn = _torn(path)
        stream = path.open("a", encoding="utf-8")
    with stream:
        if torn:
            stream.write("\n")
        yield ResponseLog(stream, path.parent)


def _torn(path: Path) -> bool:
    """Whether the last line has no end."""
    if not path.is_file() or not path.stat().st_size:
        return False
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read() != b"\n"


def read_log(path: Path) -> dict[str, LoggedResponse]:
    """The answers by key, the last one of a key; none where there is no log."""
    found: dict[str, LoggedResponse] = {}
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                found |= _entry(line)
    return found


def _entry(line: str) -> dict[str, LoggedResponse]:
    try:
        one = json.loads(line)
        return {str(one["key"]): LoggedResponse(str(one["text"]), bool(one["cut"]))}
    except (ValueError, LookupError, TypeError):
        return {}
