"""Output of rows: with a progress bar, to a file, or as JSON lines to standard output."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.console import Meter, print_json
from moe.data.formats.writers import check_suffix, open_writer

Row = dict[str, Any]


def with_progress(rows: Iterable[Row], meter: Meter) -> Iterator[Row]:
    """Yield the rows and advance the progress bar by one for each."""
    for row in rows:
        meter.advance(1)
        yield row


def write_rows(rows: Iterable[Row], path: Path, spreadsheet: bool = False) -> None:
    """Write rows atomically to a file, in the format of its suffix.

    Args:
        spreadsheet: escape texts that a spreadsheet would run as formulas; see `open_writer`.

    Raises:
        Fault: if the file cannot be written.
    """
    with open_writer(path, spreadsheet=spreadsheet) as writer:
        for row in rows:
            writer.write(row)


def check_output(path: Path | None, spreadsheet: bool) -> None:
    """Check the suffix of an output file.

    Raises:
        Fault: if there is no writer for the suffix, or `spreadsheet` is set and the file is not CSV.
    """
    if path is not None:
        check_suffix(path)
    if spreadsheet and (path is None or path.suffix.lower() != ".csv"):
        raise Fault(
            "--out with a .csv file for --spreadsheet",
            str(path or "no --out"),
            "write to a .csv file, or remove --spreadsheet",
        )


def print_json_lines(rows: Iterable[Row]) -> None:
    """Print rows as JSON, one per line, each as soon as it is available."""
    for row in rows:
        print_json(row)
