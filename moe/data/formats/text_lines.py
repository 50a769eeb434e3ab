"""Lines and CSV rows of a text file, decoded one by one, so that one broken line is one broken row."""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experts.errors import Fault

_SAMPLE = 1 << 16
_MAX_FIELD = 1 << 20


class TextLine(NamedTuple):
    """A line: its number (from 1), its text including the line end, and why it is broken, or None."""

    number: int
    text: str
    error: str | None


class CsvRow(NamedTuple):
    """A CSV row: the line at which it starts, its cells by column, and why it is broken, or None."""

    number: int
    cells: dict[str, str]
    error: str | None


def check_is_text(path: Path) -> None:
    """Check the beginning of a file.

    Raises:
        Fault: if it is empty, or if most of its first lines are not UTF-8 text.
    """
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE)
    if not sample.strip():
        raise Fault(f"rows in {path}", "an empty file", "use another file")
    lines = [line for line in sample.split(b"\n")[: -1 if b"\n" in sample else None] if line.strip()]
    broken = sum(_decode(line)[1] is not None for line in lines)
    if 2 * broken > len(lines) and not (len(lines) == 1 and _ends_within_a_character(sample)):
        raise Fault(
            f"UTF-8 text in {path}",
            f"NUL or undecodable bytes in {broken} of its first {len(lines)} lines",
            "convert the file (e.g. `iconv -f GB18030 -t UTF-8`), or correct its ending",
        )


def read_lines(path: Path) -> Iterator[TextLine]:
    """Read the lines of a file lazily, without a byte order mark."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            yield TextLine(number, *_decode(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw))


def read_csv_header(path: Path) -> list[str]:
    """Read the column names of a CSV file.

    Raises:
        Fault: if there are none, or one of them is repeated.
    """
    try:
        header = next(csv.reader(_LineSource(path), strict=True))
    except (csv.Error, StopIteration) as error:
        raise Fault(
            f"column names in the first line of {path}", f"none ({error})", "add a header line: id,text,label"
        ) from error
    if len(set(header)) != len(header):
        raise Fault(f"unique column names in {path}", ", ".join(header), "rename or remove the repeated column")
    return header


def read_csv_rows(path: Path) -> Iterator[CsvRow]:
    """Read the rows below the header lazily. A line with broken quoting is one broken row; the next line is read again.

    An empty line is an empty row if there is one column, and no row if there are several.
    """
    csv.field_size_limit(_MAX_FIELD)
    source = _LineSource(path)
    reader = csv.reader(source, strict=True)
    header = next(reader)
    while True:
        source.consumed.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            first = source.consumed[0]
            yield CsvRow(first.number, {"": first.text.strip()}, f"malformed CSV: {error}")
            source.push_back()
            continue
        if cells or len(header) == 1:
            yield _to_row(header, cells or [""], source.consumed)


def _to_row(header: list[str], cells: list[str], lines: list[TextLine]) -> CsvRow:
    error = next((line.error for line in lines if line.error), None)
    if error is None and len(cells) != len(header):
        error = f"wrong number of fields: {len(cells)} instead of {len(header)}"
    return CsvRow(lines[0].number, dict(zip(header, cells, strict=False)), error)


class _LineSource:
    """Lines for `csv.reader`; remembers those of the current row, so that all but the first can be read again."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
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


def _decode(raw: bytes) -> tuple[str, str | None]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "replace"), f"broken encoding: byte 0x{raw[error.start]:02x} is not UTF-8"
    return (text.replace("\0", "\ufffd"), "NUL byte") if "\0" in text else (text, None)


def _ends_within_a_character(sample: bytes) -> bool:
    """Whether the sample is text except for a character that is cut off at its end."""
    return len(sample) == _SAMPLE and any(_decode(sample[:-cut])[1] is None for cut in range(1, 4))
