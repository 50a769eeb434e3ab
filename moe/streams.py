"""Rows on their way out, one by one: past a progress bar, into a file, or as JSON lines to standard output.

What is in them is `moe.answer`'s and `moe.writing`'s.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from moe.data.write import open_writer
from moe.progress import Meter

Row = dict[str, Any]


def moving(rows: Iterable[Row], meter: Meter) -> Iterator[Row]:
    """The rows, the bar moved on by each."""
    for row in rows:
        meter.advance(1)
        yield row


def to_file(rows: Iterable[Row], path: Path) -> None:
    """Write rows to a file of the kind that its ending says, whole.

    Raises:
        Fault: when it cannot be written.
    """
    with open_writer(path) as writer:
        for row in rows:
            writer.write(row)


def as_lines(rows: Iterable[Row]) -> None:
    """A JSON object a line to standard output, each as soon as it is there."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()
