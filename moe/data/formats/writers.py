"""Streaming writers of rows to csv, jsonl or parquet, by the file's ending; a file appears only when it is complete.

Rows may differ in their columns; the file has all of them.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from experts.atomic_io import os_errors_as_faults, remove_stale_files, temporary_path
from experts.durable import sync_file, sync_folder
from experts.errors import Fault
from moe.data.text_checks import replace_surrogates

if TYPE_CHECKING:
    import pyarrow as pa

_BATCH = 1024
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""First characters that make a spreadsheet run a cell as a formula (OWASP, CSV injection), with full-width forms."""


class RowWriter:
    """Writes rows one at a time; the file appears when `open_writer` exits without an error."""

    def __init__(self, stream: IO[str], folder: Path) -> None:
        self._stream, self._folder = stream, folder

    def write(self, row: Mapping[str, object]) -> None:
        """Write a row of JSON values; NaN is rejected, and what UTF-8 cannot hold is replaced."""
        line = replace_surrogates(json.dumps(row, ensure_ascii=False, allow_nan=False))
        with os_errors_as_faults(self._folder):
            self._stream.write(line + "\n")


@contextmanager
def open_writer(path: Path, columns: Iterable[str] = (), spreadsheet: bool = False) -> Iterator[RowWriter]:
    """Open a file for rows, under a temporary name in the same folder until all rows are written.

    Rows are collected on disk as JSON lines; csv and parquet are made from them at the end, when all columns are known.
    In csv a mapping becomes one column per entry (`probabilities.positive`), and a list becomes JSON.

    Args:
        path: ends in .csv, .jsonl or .parquet; its folder is created if missing.
        columns: names that come first in csv and parquet, present even if no row has them.
        spreadsheet: in csv, escape text that a spreadsheet would run as a formula, with a leading `'`.

    Raises:
        Fault: if the ending is unknown, the folder cannot be written, or a Parquet column has values of several types.
    """
    check_suffix(path)
    temporary, lines = temporary_path(path, "partial"), temporary_path(path, "lines")
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(21, "a folder of that name", str(path))
        remove_stale_files(path)
        stream = lines.open("w", encoding="utf-8")
    try:
        try:
            yield RowWriter(stream, path.parent)
        finally:
            with os_errors_as_faults(path.parent):
                stream.close()  # writes what is still buffered
        with os_errors_as_faults(path.parent):
            _FORMATS[path.suffix.lower()](lines, temporary, list(columns), spreadsheet)
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        lines.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Check that there is a writer for the file's ending.

    Raises:
        Fault: if there is none.
    """
    if path.suffix.lower() not in _FORMATS:
        raise Fault(f"an output file ending in {', '.join(_FORMATS)}", path.name, "use one of these endings")


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _write_jsonl(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    lines.replace(target)


def _write_csv(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    def to_cell(value: Any) -> Any:
        return escape_formula(value) if spreadsheet else value

    names = list(dict.fromkeys([*columns, *(name for row in _read(lines) for name in _flatten(row))]))
    with target.open("w", encoding="utf-8", newline="") as stream:
        plain = csv.writer(stream, lineterminator="\n")
        quoted = csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL)

        def write(cells: list[Any]) -> None:
            # Python before 3.13 does not quote a lone CR, at which every reader would end the row.
            (quoted if any(isinstance(cell, str) and "\r" in cell for cell in cells) else plain).writerow(cells)

        write([to_cell(name) for name in names])
        for row in map(_flatten, _read(lines)):
            write([to_cell(row.get(name, "")) for name in names])


def escape_formula(value: Any) -> Any:
    """Return a cell that no spreadsheet runs: text that looks like a formula gets a leading `'`, numbers stay as is."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_PREFIXES) else value


def _flatten(row: Mapping[str, object], prefix: str = "") -> dict[str, Any]:
    """Cells of a row: nested mappings as dotted names, lists as JSON."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= _flatten(value, f"{prefix}{name}.")
        else:
            cells[prefix + name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value
    return cells


def _write_parquet(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    import pyarrow as pa  # slow to import, and other files do not need it
    import pyarrow.parquet as pq

    first = pa.schema([pa.field(name, pa.null()) for name in columns])
    try:
        schema = pa.unify_schemas([first, *(table.schema for table in _tables(lines))], promote_options="permissive")
        with pq.ParquetWriter(target, schema) as writer:
            for table in _tables(lines, schema):
                writer.write_table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise Fault(
            "values of one type in each Parquet column", str(error), "write .jsonl or .csv, which accept mixed types"
        ) from error


def _tables(lines: Path, schema: "pa.Schema | None" = None) -> "Iterator[pa.Table]":
    import pyarrow as pa  # as above

    rows = _read(lines)
    while batch := list(islice(rows, _BATCH)):
        names = schema.names if schema else dict.fromkeys(name for row in batch for name in row)
        filled = [{name: _without_empty_mapping(row.get(name)) for name in names} for row in batch]
        yield pa.Table.from_pylist(filled, schema=schema)


def _without_empty_mapping(value: Any) -> Any:
    """The value, or None for an empty mapping, which Parquet cannot store."""
    return None if value == {} else value


_FORMATS: dict[str, Callable[[Path, Path, list[str], bool], None]] = {
    ".csv": _write_csv,
    ".jsonl": _write_jsonl,
    ".parquet": _write_parquet,
}
