"""Output of rows: with a progress bar, to a file, or as JSON lines to standard output."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from experts.errors import Fault
from experts.locks import output_lock
from experts.outputs import check_output_file
from moe.console import Meter, print_json
from moe.data.formats.writers import check_suffix, open_writer

T = TypeVar("T")


def with_progress(rows: Iterable[T], meter: Meter) -> Iterator[T]:
    """Yield the rows and advance the progress bar by one for each."""
    for row in rows:
        meter.advance(1)
        yield row


def write_rows(
    rows: Iterable[Mapping[str, object]], path: Path, spreadsheet: bool = False, overwrite: bool = False
) -> None:
    """Write rows atomically to a file, in the format of its suffix.

    Args:
        spreadsheet: escape texts that a spreadsheet would run as formulas; see `open_writer`.
        overwrite: replace an existing file, even one that another program has written by the time of the last row.

    Raises:
        Fault: if the file cannot be written, exists, or another process writes it.
    """
    with output_lock(path), open_writer(path, spreadsheet=spreadsheet) as writer:
        for row in rows:
            writer.write(row)
        check_output_file(path, (), overwrite)


def check_output(
    path: Path | None, spreadsheet: bool, inputs: Sequence[Path | None] = (), overwrite: bool = False
) -> None:
    """Check an output file before anything slow is loaded.

    Args:
        path: the file; None is standard output.
        spreadsheet: see `write_rows`.
        inputs: files and folders that the command reads.
        overwrite: allow to replace an existing file that is no input.

    Raises:
        Fault: if there is no writer for the suffix, `spreadsheet` is set and the file is not CSV, the file is an input,
            or it exists and `overwrite` is false.
    """
    if path is not None:
        check_suffix(path)
        check_output_file(path, [source for source in inputs if source is not None], overwrite)
    if spreadsheet and (path is None or path.suffix.lower() != ".csv"):
        raise Fault(
            "--out with a .csv file for --spreadsheet",
            str(path or "no --out"),
            "write to a .csv file, or remove --spreadsheet",
        )


def print_json_lines(rows: Iterable[Mapping[str, object]]) -> None:
    """Print rows as JSON, one per line, each as soon as it is available."""
    for row in rows:
        print_json(row)
