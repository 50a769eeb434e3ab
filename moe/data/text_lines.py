"""Lines and CSV rows of a text file, decoded one by one, so that one broken line is one broken row.

What the columns mean is left to `read`; a file that is no text at all is refused here.
"""

import csv
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from experts.errors import Fault

_SAMPLE = 1 << 16
_LONGEST_FIELD = 1 << 20


class TextLine(NamedTuple):
    """A line with its number (from 1), its text with its line end, and why it is broken, if it is."""

    number: int
    text: str
    error: str | None


class CsvRow(NamedTuple):
    """A CSV row: the line it starts at, its cells by column, and why it is broken, if it is."""

    number: int
    cells: dict[str, str]
    error: str | None


def check_is_text(path: Path) -> None:
    """Look at the beginning of a file.

    Raises:
        Fault: when it is empty, or when most of its first lines are no UTF-8 text.
    """
    with path.open("rb") as stream:
        sample = stream.read(_SAMPLE)
    if not sample.strip():
        raise Fault(f"rows in {path}", "an empty file", "name another file")
    lines = [line for line in sample.split(b"\n")[: -1 if b"\n" in sample else None] if line.strip()]
    broken = sum(_decoded(line)[1] is not None for line in lines)
    if 2 * broken > len(lines) and not (len(lines) == 1 and _cut_short(sample)):
        raise Fault(
            f"UTF-8 text in {path}",
            f"{broken} of its first {len(lines)} lines with NUL or undecodable bytes",
            "convert it (say `iconv -f GB18030 -t UTF-8`), or give the file its right ending",
        )


def read_lines(path: Path) -> Iterator[TextLine]:
    """Every line of a file in order, read as asked for; a byte order mark is taken off."""
    with path.open("rb") as stream:
        for number, raw in enumerate(stream, start=1):
            yield TextLine(number, *_decoded(raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw))


def read_csv_header(path: Path) -> list[str]:
    """The column names of a CSV file.

    Raises:
        Fault: when there are none, or one is there twice.
    """
    try:
        header = next(csv.reader(_Source(path), strict=True))
    except (csv.Error, StopIteration) as error:
        raise Fault(f"a first line of column names in {path}", f"none ({error})", "add one: id,text,label") from error
    if len(set(header)) != len(header):
        raise Fault(f"each column of {path} once", ", ".join(header), "rename or drop the repeated one")
    return header


def read_csv_rows(path: Path) -> Iterator[CsvRow]:
    """The rows below the header. A line that breaks the quoting is one broken row; reading goes on at the next line.

    An empty line is an empty row where there is one column, and no row where there are several.
    """
    csv.field_size_limit(_LONGEST_FIELD)
    source = _Source(path)
    reader = csv.reader(source, strict=True)
    header = next(reader)
    while True:
        source.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield CsvRow(source.taken[0].number, {"": source.taken[0].text.strip()}, f"malformed CSV: {error}")
            source.again()
            continue
        if cells or len(header) == 1:
            yield _row(header, cells or [""], source.taken)


def _row(header: list[str], cells: list[str], taken: list[TextLine]) -> CsvRow:
    error = next((line.error for line in taken if line.error), None)
    if error is None and len(cells) != len(header):
        error = f"wrong number of fields: {len(cells)}, not {len(header)}"
    return CsvRow(taken[0].number, dict(zip(header, cells, strict=False)), error)


class _Source:
    """Lines for `csv.reader`, remembered in `taken` so that all but the first can be read again."""

    def __init__(self, path: Path) -> None:
        self._lines = read_lines(path)
        self._pushed: deque[TextLine] = deque()
        self.taken: list[TextLine] = []

    def __iter__(self) -> "_Source":
        return self

    def __next__(self) -> str:
        line = self._pushed.popleft() if self._pushed else next(self._lines)
        self.taken.append(line)
        return line.text

    def again(self) -> None:
        self._pushed.extendleft(reversed(self.taken[1:]))


def _decoded(raw: bytes) -> tuple[str, str | None]:
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return raw.decode("utf-8", "replace"), f"broken encoding: byte 0x{raw[error.start]:02x} is no UTF-8"
    return (text.replace("\0", "\ufffd"), "NUL byte") if "\0" in text else (text, None)


def _cut_short(sample: bytes) -> bool:
    """Whether the sample is text but for a character cut at its end."""
    return len(sample) == _SAMPLE and any(_decoded(sample[:-cut])[1] is None for cut in range(1, 4))
