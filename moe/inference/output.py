"""Rows on their way out, one by one: past a progress bar, into a file, or as JSON lines to standard output.

What is in them is `moe.inference.infer_command`'s and `moe.inference.generate_command`'s.
"""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.console import Meter
from moe.data.writers import open_writer, check_suffix

Row = dict[str, Any]


def with_progress(rows: Iterable[Row], meter: Meter) -> Iterator[Row]:
    """The rows, the bar moved on by each."""
    for row in rows:
        meter.advance(1)
        yield row


def write_rows(rows: Iterable[Row], path: Path, spreadsheet: bool = False) -> None:
    """Write rows to a file of the kind that its ending says, whole.

    Args:
        spreadsheet: texts that a spreadsheet would run are escaped; see `open_writer`.

    Raises:
        Fault: when it cannot be written.
    """
    with open_writer(path, spreadsheet=spreadsheet) as writer:
        for row in rows:
            writer.write(row)


def check_output(path: Path | None, spreadsheet: bool) -> None:
    """Refuse a file that no writer knows.

    Raises:
        Fault: for an unknown ending, or one that no spreadsheet would run, where escaping is asked for.
    """
    if path is not None:
        check_suffix(path)
    if spreadsheet and (path is None or path.suffix.lower() != ".csv"):
        raise Fault("--out with a .csv file for --spreadsheet", str(path or "none"), "name one, or leave the flag out")


def print_json_lines(rows: Iterable[Row]) -> None:
    """A JSON object a line to standard output, each as soon as it is there."""
    for row in rows:
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
        sys.stdout.flush()
