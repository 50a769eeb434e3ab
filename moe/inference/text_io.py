"""Texts that a command reads and rows that it writes: from arguments, a file or standard input, to a file or as JSON.

An output keeps the columns of its input: those whose names it uses itself are carried over, and its own get a prefix.
"""

import math
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import TypeVar, cast

from experts.errors import Fault, suggest
from experts.locks import output_lock
from experts.outputs import check_output_file
from moe.console import Meter, print_json
from moe.data.column_names import find_column
from moe.data.formats.content import TextForm
from moe.data.formats.readers import columns_of_texts, read_column_names, read_texts
from moe.data.formats.text_format import TextFormat, parse_text_format
from moe.data.formats.text_lines import stream_lines
from moe.data.formats.writers import check_suffix, open_writer
from moe.data.schema import Columns
from moe.data.text_checks import check_targets, is_encodable, string_or_none, text_problem
from moe.inference.rows import Row

T = TypeVar("T")

PREFIX = "predicted_"
CARRIED = "input columns"
"""Key under which the values of these columns accompany a row until it is written."""
PREDICTED = (
    *("label", "probabilities", "polarity", "confidence", "experts", "routing_entropy", "truncated", "task"),
    *("abstained", "label_set", "target_missing", "target_truncated", "windows", "unfamiliar"),
)
"""Columns of a prediction, see `moe.inference.stream.to_row`."""
OF_SETS = ("labels",)
"""Columns that only predictions of multi-label tasks have."""
GENERATED = ("prompt", "answer", "experts")
ADDED = ("line", "error")
"""Columns that every output has beside those."""


@dataclass(frozen=True)
class InputColumns:
    """The columns of an input file that an output would otherwise replace.

    Args:
        carried: their names; each keeps its name and values in the output.
        renamed: new names of columns of the output.
    """

    carried: tuple[str, ...] = ()
    renamed: Mapping[str, str] | None = None

    @classmethod
    def of(
        cls,
        names: Collection[str],
        written: Collection[str],
        used: Mapping[str, str],
        keep: Collection[str] = (),
        optional: Collection[str] = OF_SETS,
    ) -> "InputColumns":
        """Compare the columns of a file with those of an output.

        In csv a mapping becomes a column per entry, so that `experts.news` of the file clashes with `experts`.

        Args:
            names: columns of the file.
            written: columns of the output that are not from the file.
            used: columns of the output that are from the file, with the names that they have there.
            keep: further columns of the file to carry over.
            optional: columns of the output that depend on the task; a column of this name is carried over only if it
                is in `keep`.
        """
        own = set(used.values())
        clashes = {name: name.partition(".")[0] for name in names if name not in own}
        carried = tuple(name for name, first in clashes.items() if first in written or name in keep)
        optional_names = {first for name, first in clashes.items() if first in optional and name in keep}
        renamed = {first: free_name(first, names) for first in clashes.values() if first in {*written, *optional_names}}
        renamed |= {name: column for name, column in used.items() if name in names and column != name}
        return cls(carried, renamed)

    def attach(self, row: Row, values: Mapping[str, object]) -> Row:
        """Return a row that is accompanied by the values of the carried columns."""
        if not self.carried:
            return row
        return row | {CARRIED: {name: _json_value(values.get(name)) for name in self.carried}}

    def restore(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield rows as they are written: with the renamed columns, and the carried ones last."""
        renamed = self.renamed or {}
        for row in rows:
            written = {renamed.get(name, name): value for name, value in row.items() if name != CARRIED}
            yield written | cast(Row, row.get(CARRIED) or {})


def _json_value(value: object) -> object:
    """Return a value of a file as JSON has it: times in ISO 8601, and null for NaN."""
    if isinstance(value, date):
        return value.isoformat()
    return None if isinstance(value, float) and math.isnan(value) else value


def free_name(name: str, names: Collection[str]) -> str:
    """Return a name with as many prefixes as it takes to differ from all `names`."""
    firsts = {other.partition(".")[0] for other in names}
    while name in firsts:
        name = PREFIX + name
    return name


@dataclass(frozen=True)
class TextSource:
    """Where texts come from: arguments or a file; without both, standard input or a prompt.

    Args:
        texts: given as arguments.
        file: a file of texts, in any format that `read_texts` reads.
        text_column: the file's text column.
        targets: entities for each of which every text is used.
        target_column: the file's target column; by default `target`, if there is one.
        encoding: of the file; None detects it.
        separator: of a csv file; None detects it.
        keep: columns of the file that its predictions keep.
    """

    texts: tuple[str, ...] = ()
    file: Path | None = None
    text_column: str = "text"
    targets: tuple[str, ...] = ()
    target_column: str | None = None
    encoding: str | None = None
    separator: str | None = None
    keep: tuple[str, ...] = ()

    def check(self, noun: str = "text", *, required: bool = False) -> None:
        """Check the source, before anything slow is loaded.

        Args:
            noun: what messages call a text.
            required: refuse neither texts nor a file.

        Raises:
            Fault: for texts together with a file, an empty text or target, too many targets, an unknown encoding, or a
                file that cannot be read.
        """
        if self.texts and self.file:
            raise Fault(f"{noun}s or --file", "both", "give one of them")
        if required and not self.texts and not self.file:
            raise Fault(f"{noun}s or --file", "neither", "give one of them")
        if any(not text.strip() for text in self.texts):
            raise Fault(f"a {noun} with words in it", f"an empty {noun}", f"write the {noun} in quotes")
        if any(not is_encodable(text) for text in self.texts):
            remedy = f"put the {noun}s into a file and convert it with iconv"
            raise Fault(f"{noun}s in UTF-8", "bytes in another encoding", remedy)
        check_targets(self.targets)
        if self.target_column is not None and (self.file is None or self.targets):
            problem = "--target-column with --target" if self.targets else "--target-column without --file"
            raise Fault("targets from --target or from a column of a file", problem, "remove --target-column")
        if self.keep and self.file is None:
            raise Fault("a file whose columns to keep", "--keep without --file", "remove --keep")
        if self.file or self.encoding is not None or self.separator is not None:
            parse_text_format(self.encoding, self.separator)
        if self.file:
            read_texts(self.file, self.columns, self.text_format)

    @property
    def required_file(self) -> Path:
        """The file, for what reads nothing else.

        Raises:
            Fault: if there is none.
        """
        if self.file is None:
            raise Fault("a file of texts", "none", "name a file")
        return self.file

    @cached_property
    def text_format(self) -> TextFormat:
        """Encoding and separator of the file, where they are given."""
        return parse_text_format(self.encoding, self.separator)

    @cached_property
    def columns(self) -> Columns:
        """Column names of the file."""
        if self.targets or self.file is None:
            return Columns(text=self.text_column)
        return columns_of_texts(self.file, self.text_column, self.target_column, self.text_format)

    @property
    def has_target(self) -> bool | None:
        """Whether all texts have a target (True) or none has (False); None if rows of the file may have one."""
        if self.targets or self.target_column is not None:
            return True
        return None if self.file is not None and self.columns.target is not None else False

    def column_names(self) -> list[str]:
        """Names of the file's columns; none without a file."""
        return [] if self.file is None else read_column_names(self.file, self.columns.required(), self.text_format)

    def kept_columns(self) -> list[str]:
        """Names of the columns to keep, as the file spells them.

        Raises:
            Fault: if the file lacks one.
        """
        names = self.column_names()
        spelled = [find_column(name, names) for name in self.keep]
        for name, column in zip(self.keep, spelled, strict=True):
            if column is None and self.file is not None:
                raise Fault(
                    f"a column {name!r} in {self.file.name}", f"the columns {', '.join(names)}", suggest(name, names)
                )
        return [column for column in spelled if column is not None]

    def count(self) -> int | None:
        """Number of texts for a progress bar; None if unknown. A file is counted only if the bar is visible."""
        if self.file is None or not sys.stderr.isatty():
            return len(self.texts) * max(1, len(self.targets)) or None
        return sum(1 for _ in read_texts(self.file, self.columns, self.text_format)) * max(1, len(self.targets))

    def rows(self, columns: InputColumns = InputColumns()) -> Iterator[Row]:
        """Yield a row with `text` for each text and each target, or for the target of its own row.

        Args:
            columns: of the file, whose carried ones accompany the rows.
        """
        for row in self._text_rows(columns):
            if self.targets and "error" not in row:
                yield from (row | {"target": target} for target in self.targets)
            else:
                yield row

    def _text_rows(self, columns: InputColumns) -> Iterator[Row]:
        if self.file:
            for record in read_texts(self.file, self.columns, self.text_format, columns.carried):
                row = {
                    "id": record.values.get("id"),
                    "line": record.line,
                    "text": string_or_none(record.values.get("text")),
                }
                if self.columns.target is not None:
                    target = record.values.get("target")
                    row["target"] = string_or_none(target) if record.error else target
                row = columns.attach(row, record.values)
                yield row | ({"error": record.error} if record.error else {})
        elif self.texts:
            for text in self.texts:
                yield {"text": text}
        else:
            yield from _standard_input(None if self.encoding is None else self.text_format.encoding)


def _standard_input(encoding: str | None) -> Iterator[Row]:
    """Rows of standard input, as `read_texts` reads them from a file of the same bytes."""
    form = None if encoding is None else TextForm(encoding)
    for line in stream_lines(sys.stdin.buffer, form):
        text = line.text.rstrip("\r\n")
        error = line.error or text_problem(text)
        yield {"line": line.number, "text": text} | ({"error": error} if error else {})


@dataclass(frozen=True)
class OutputTarget:
    """Where rows go.

    Args:
        path: a file, in the format of its suffix; None is standard output.
        spreadsheet: escape texts in csv that a spreadsheet would run as formulas; see `open_writer`.
        overwrite: replace an existing file, even one that another program has written by the time of the last row.
    """

    path: Path | None = None
    spreadsheet: bool = False
    overwrite: bool = False

    def check(self, inputs: Sequence[Path | None] = ()) -> None:
        """Check the output before anything slow is loaded.

        Args:
            inputs: files and folders that the command reads.

        Raises:
            Fault: if there is no writer for the suffix, `spreadsheet` is set and the file is not CSV, the file is an
                input, or it exists and `overwrite` is false.
        """
        if self.path is not None:
            check_suffix(self.path)
            check_output_file(self.path, [source for source in inputs if source is not None], self.overwrite)
        if self.spreadsheet and (self.path is None or self.path.suffix.lower() != ".csv"):
            raise Fault(
                "--out with a .csv file for --spreadsheet",
                str(self.path or "no --out"),
                "write to a .csv file, or remove --spreadsheet",
            )

    def lock(self) -> AbstractContextManager[None]:
        """Lock the file, so that a second process does not write it.

        Raises:
            Fault: on entry, if another process writes it.
        """
        return nullcontext() if self.path is None else output_lock(self.path)

    def write(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write rows atomically to the file, or print them as JSON lines, each as soon as it is available.

        Raises:
            Fault: if the file cannot be written, exists, or another process writes it.
        """
        if self.path is None:
            for row in rows:
                print_json(row)
            return
        with self.lock(), open_writer(self.path, spreadsheet=self.spreadsheet) as writer:
            for row in rows:
                writer.write(row)
            check_output_file(self.path, (), self.overwrite)


def with_progress(rows: Iterable[T], meter: Meter) -> Iterator[T]:
    """Yield the rows and advance the progress bar by one for each."""
    for row in rows:
        meter.advance(1)
        yield row
