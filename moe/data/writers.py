"""Rows out to csv, jsonl or parquet, by the file's ending: streamed, and there whole or not at all.

What the rows hold is left to whoever writes them; rows may differ in their columns, the file has all of them.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from experts.atomic_io import os_errors_as_faults, remove_stale_files, temporary_path
from experts.errors import Fault

_BATCH = 1024
FORMULA_PREFIXES = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings that spreadsheets take for a formula (OWASP, CSV injection), full-width ones included."""


class RowWriter:
    """Takes rows one by one; the file appears when `open_writer` is left without an error."""

    def __init__(self, stream: IO[str], folder: Path) -> None:
        self._stream, self._folder = stream, folder

    def write(self, row: Mapping[str, Any]) -> None:
        """Add a row of JSON values; NaN is refused."""
        line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        with os_errors_as_faults(self._folder):
            self._stream.write(line + "\n")


@contextmanager
def open_writer(path: Path, columns: Iterable[str] = (), spreadsheet: bool = False) -> Iterator[RowWriter]:
    """Open a file for rows, under a temporary name beside it until all are written.

    Rows are kept as JSON lines on disk; csv and parquet are made of them at the end, when all columns are known. In
    csv a mapping becomes one column an entry (`probabilities.positive`), a list becomes JSON.

    Args:
        path: ends in .csv, .jsonl or .parquet; its folder is made when missing.
        columns: names that come first in csv and parquet, and are there even when no row has them.
        spreadsheet: in csv, a text that a spreadsheet would take for a formula gets a `'` before it.

    Raises:
        Fault: when the ending is unknown, the folder cannot be written, or a Parquet column mixes kinds.
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
        with stream:
            yield RowWriter(stream, path.parent)
        with os_errors_as_faults(path.parent):
            _FORMATS[path.suffix.lower()](lines, temporary, list(columns), spreadsheet)
            temporary.replace(path)
    finally:
        lines.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)


def check_suffix(path: Path) -> None:
    """Raise a Fault when no writer has this file's ending."""
    if path.suffix.lower() not in _FORMATS:
        raise Fault(f"an output file ending in {', '.join(_FORMATS)}", path.name, "give it one of these endings")


def _read(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as stream:
        for line in stream:
            yield json.loads(line)


def _as_lines(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    lines.replace(target)


def _as_csv(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    cell = escape_formula if spreadsheet else _as_it_is
    names = list(dict.fromkeys([*columns, *(name for row in _read(lines) for name in _flat(row))]))
    with target.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([cell(name) for name in names])
        for row in map(_flat, _read(lines)):
            writer.writerow([cell(row.get(name, "")) for name in names])


def escape_formula(value: Any) -> Any:
    """A cell that no spreadsheet runs: text that begins a formula has a `'` before it, numbers stay."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA_PREFIXES) else value


def _as_it_is(value: Any) -> Any:
    return value


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of cells: mappings opened with dotted names, lists as JSON."""
    cells: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            cells |= _flat(value, f"{prefix}{name}.")
        else:
            cells[prefix + name] = json.dumps(value, ensure_ascii=False) if isinstance(value, list | bool) else value
    return cells


def _as_parquet(lines: Path, target: Path, columns: list[str], spreadsheet: bool) -> None:
    first = pa.schema([pa.field(name, pa.null()) for name in columns])
    try:
        schema = pa.unify_schemas([first, *(table.schema for table in _tables(lines))], promote_options="permissive")
        with pq.ParquetWriter(target, schema) as writer:
            for table in _tables(lines, schema):
                writer.write_table(table)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise Fault(
            "columns of one kind each for Parquet", str(error), "write .jsonl or .csv, which take mixed ones"
        ) from error


def _tables(lines: Path, schema: pa.Schema | None = None) -> Iterator[pa.Table]:
    rows = _read(lines)
    while batch := list(islice(rows, _BATCH)):
        names = dict.fromkeys(name for row in batch for name in row)
        filled = [{name: _solid(row.get(name)) for name in (schema.names if schema else names)} for row in batch]
        yield pa.Table.from_pylist(filled, schema=schema)


def _solid(value: Any) -> Any:
    """Parquet knows no empty mapping."""
    return None if value == {} else value


_FORMATS: dict[str, Callable[[Path, Path, list[str], bool], None]] = {
    ".csv": _as_csv,
    ".jsonl": _as_lines,
    ".parquet": _as_parquet,
}
