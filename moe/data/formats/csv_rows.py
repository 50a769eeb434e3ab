"""Rows of a CSV file: the separator, the header, and rows of which a broken one does not end the others."""

import csv
import re
from collections import deque
from collections.abc import Collection, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from threading import Lock
from typing import NamedTuple, TypeVar

from experts.errors import Fault
from moe.data.formats.content import TextForm
from moe.data.formats.refusals import check_unique_names
from moe.data.formats.text_lines import TextLine, read_lines

_MAX_FIELD = 1 << 24
"""Most characters of a cell: a quote that is never closed must not read the rest of the file."""
_FIELD_LIMIT = Lock()
_OTHER_SEPARATORS = (";", "\t", "|")
Row = TypeVar("Row")
_DECLARATION = re.compile(r'"?sep=(.)"?\s*')


class CsvRow(NamedTuple):
    """A CSV row: the line at which it starts, its cells by column, and why it is broken, or None."""

    number: int
    cells: dict[str, str]
    error: str | None


def read_csv_header(
    path: Path, form: TextForm, required: Collection[str] = (), separator: str | None = None
) -> tuple[list[str], TextForm]:
    """Read the column names of a CSV file, and detect its separator.

    A comma is preferred; another separator is used if it alone makes several columns of the header, or the required
    ones. A first line `sep=;`, which Excel writes, settles it.

    Args:
        path: the file.
        form: how its text is stored.
        required: columns that the file must have.
        separator: the separator; None detects it.

    Returns:
        the names, and the form with the separator.

    Raises:
        Fault: if there are no names, or one of them is repeated.
    """
    declared = _DECLARATION.fullmatch(next(read_lines(path, form)).text)
    if declared:
        form, separator = replace(form, skipped_lines=1), separator or declared[1]
    forms = [replace(form, separator=each) for each in ([separator] if separator else [",", *_OTHER_SEPARATORS])]
    headers = [_header(path, each) for each in forms]
    chosen = _choose([header if isinstance(header, list) else [] for header in headers], set(required))
    header = headers[chosen]
    if isinstance(header, Exception):
        raise Fault(
            f"column names in the first line of {path}", f"none ({header})", "add a header line: id,text,label"
        ) from header
    check_unique_names(header, path)
    return header, forms[chosen]


def next_row(reader: Iterator[Row], limit: int = _MAX_FIELD) -> Row | None:
    """Return the next row of one of csv's readers, with cells of up to `limit` characters; None at the end.

    csv has one limit for the whole process, which is as before when this returns.

    Raises:
        csv.Error: if the row is broken.
    """
    with _FIELD_LIMIT:
        before = csv.field_size_limit(limit)
        try:
            return next(reader, None)
        finally:
            csv.field_size_limit(before)


def _header(path: Path, form: TextForm) -> list[str] | Exception:
    try:
        names = next_row(csv.reader(_LineSource(path, form), strict=True, delimiter=form.separator))
    except csv.Error as error:
        return error
    return StopIteration() if names is None else names


def _choose(headers: list[list[str]], required: set[str]) -> int:
    """Index of the header to use: the first that has the required columns, else the only one with several columns."""
    folded = [{name.strip().casefold() for name in header} for header in headers]
    wanted = {name.strip().casefold() for name in required}
    fitting = [index for index, names in enumerate(folded) if wanted and wanted <= names]
    if fitting:
        return fitting[0]
    several = [index for index, header in enumerate(headers) if len(header) > 1]
    return several[0] if len(several) == 1 else 0


def read_csv_rows(path: Path, form: TextForm = TextForm()) -> Iterator[CsvRow]:
    """Read the rows below the header lazily. A line with broken quoting is one broken row; the next line is read again.

    An empty line is an empty row if there is one column, and no row if there are several.
    """
    source = _LineSource(path, form)
    reader = csv.reader(source, strict=True, delimiter=form.separator)
    header = next_row(reader) or []
    while True:
        source.consumed.clear()
        try:
            cells = next_row(reader)
        except csv.Error as error:
            first = source.consumed[0]
            yield CsvRow(first.number, {"": first.text.strip()}, f"malformed CSV: {error}")
            source.push_back()
            continue
        if cells is None:
            return
        if cells or len(header) == 1:
            yield _to_row(header, cells or [""], source.consumed)


def _to_row(header: list[str], cells: list[str], lines: list[TextLine]) -> CsvRow:
    error = next((line.error for line in lines if line.error), None)
    if error is None and len(cells) != len(header):
        error = f"wrong number of fields: {len(cells)} instead of {len(header)}"
    return CsvRow(lines[0].number, dict(zip(header, cells, strict=False)), error)


class _LineSource:
    """Lines for `csv.reader`; remembers those of the current row, so that all but the first can be read again."""

    def __init__(self, path: Path, form: TextForm) -> None:
        self._lines = islice(read_lines(path, form), form.skipped_lines, None)
        self._pushed: deque[TextLine] = deque()
        self.consumed: list[TextLine] = []

    def __iter__(self) -> "_LineSource":
        return self

    def __next__(self) -> str:
        line = self._pushed.popleft() if self._pushed else next(self._lines)
        self.consumed.append(line)
        return line.text

    def push_back(self) -> None:
        self._pushed.extendleft(reversed(self.consumed[1:]))
