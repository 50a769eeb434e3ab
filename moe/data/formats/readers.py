"""Lazy readers of csv, jsonl, txt, parquet and `datasets` folders: records in order, each with its line number.

`moe.data.validation` checks the records; readers only rename columns and report what cannot be decoded.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experts.errors import Fault
from moe.data.column_names import find_column, label_name, match_columns
from moe.data.formats.arrow_tables import RawRow, open_splits, parquet_columns, parquet_rows, split_columns, split_rows
from moe.data.formats.content import (
    COMPRESSED_ENDINGS,
    PARQUET,
    compression_of,
    detect_text,
    format_fault,
    format_of,
    read_start,
    remedy_for,
)
from moe.data.formats.csv_rows import read_csv_header, read_csv_rows
from moe.data.formats.json_lines import json_columns, json_rows
from moe.data.formats.refusals import check_regular_file
from moe.data.formats.text_format import TextFormat, parse_text_format
from moe.data.formats.text_lines import read_lines
from moe.data.schema import Columns, Record, TaskSettings
from moe.data.text_checks import is_blank, text_problem

DEFAULT_TARGET_COLUMN = "target"
ORIGIN_COLUMN = "origin"
SPLIT_COLUMN = "split"
"""Column of a record's part, within which an id is unique, whether or not it decides the split."""


class _OpenFile(NamedTuple):
    """A file that is ready to be read.

    Args:
        columns: their names; None if they are unknown, since no row of the beginning can be read.
        rows: reads the rows, with the named columns only if the format allows it; None reads all.
        description: the format, and what is unusual in it.
    """

    columns: list[str] | None
    rows: Callable[[Collection[str] | None], Iterator[RawRow]]
    description: str


def read_records(
    path: Path,
    columns: Columns = Columns(),
    text_optional: bool = False,
    others: Collection[str] | None = (),
    text_format: TextFormat = TextFormat(),
    answer_fields: Collection[str] = (),
    carried: Collection[str] = (),
) -> Iterator[Record]:
    """Read the records of a file lazily.

    The file is opened and its columns are checked before this function returns. Column names may differ in letter
    case. A record without an id is named `line-N`. Columns that are not needed are not read, so that
    what they hold does not matter.

    Args:
        path: csv, tsv, jsonl, txt or parquet file, which may be compressed except for the last, or a `datasets` folder.
        columns: names of the file's columns.
        text_optional: do not require a text column, since a row may hold a complete question.
        others: further columns that are needed; None reads all.
        text_format: encoding and separator, if they cannot be detected.
        answer_fields: fields such as `label` and `score`, a column of one of which is required.
        carried: columns whose values every record has under their own names, even those of fields that are ignored.

    Raises:
        Fault: if the file is missing, of an unknown kind, binary or empty, or lacks a required column.
    """
    file = _open(path, columns.required() - ({columns.text} if text_optional else set()), text_format)
    names = file.columns or ()
    columns = match_columns(names, columns, path, text_optional=text_optional, answer_fields=answer_fields)
    spelled = [find_column(name, names) or name for name in others or ()]
    needed = None if others is None else {*columns.mapping().values(), *spelled, *carried, ""}
    for_output = set(carried)
    return (
        _to_record(number, values, error, columns, needed, for_output) for number, values, error in file.rows(needed)
    )


def read_task_records(path: Path, task: TaskSettings, others: Collection[str] = ()) -> Iterator[Record]:
    """Read the records of a task's file, with the columns that its settings name; see `read_records`."""
    asks = task.ask is not None
    return read_records(
        path,
        task.columns,
        text_optional=asks,
        others={*task.other_columns, *others, SPLIT_COLUMN},
        text_format=task.format,
        answer_fields=task.answer_fields,
    )


def with_text_format(task: TaskSettings, encoding: str | None, separator: str | None) -> TaskSettings:
    """Return a task's settings with the encoding and the separator of the command line, where they are given.

    Raises:
        Fault: as `parse_text_format`.
    """
    given = parse_text_format(encoding, separator).model_dump(exclude_none=True)
    return task.model_copy(update={"format": task.format.model_copy(update=given)}) if given else task


def columns_of_texts(
    path: Path, text: str, target: str | None = None, text_format: TextFormat = TextFormat()
) -> Columns:
    """Return the columns of a file of texts to predict: a column `target` is used if the file has one.

    Args:
        path: the file.
        text: name of the text column.
        target: name of the target column, which is then required; by default `target`, if there is such a column.
        text_format: see `read_records`.

    Raises:
        Fault: as `read_column_names`.
    """
    if target is None and text != DEFAULT_TARGET_COLUMN:
        target = find_column(DEFAULT_TARGET_COLUMN, read_column_names(path, {text}, text_format))
    return Columns(text=text, target=target)


def read_column_names(path: Path, required: Collection[str] = (), text_format: TextFormat = TextFormat()) -> list[str]:
    """Return the names of a file's columns; of a jsonl file, those in its first rows.

    Args:
        path: the file.
        required: columns that the file should have, by which the separator of a CSV file is detected.
        text_format: see `read_records`.

    Raises:
        Fault: if the file is missing, of an unknown kind, binary or empty.
    """
    return _open(path, required, text_format).columns or []


def describe_format(path: Path, columns: Columns = Columns(), text_format: TextFormat = TextFormat()) -> str:
    """Return what a file was detected to be, such as `csv, separated by tabs, UTF-16`.

    Raises:
        Fault: as `read_records`.
    """
    return _open(path, columns.required(), text_format).description


def read_texts(
    path: Path,
    columns: Columns = Columns(),
    text_format: TextFormat = TextFormat(),
    carried: Collection[str] = (),
) -> Iterator[Record]:
    """Read the id, text and target of every record of a file, in order; a record without a valid text has an error.

    Args:
        carried: see `read_records`.

    Raises:
        Fault: as `read_records`.
    """
    needed = columns.restricted_to("id", "text", "target")
    for record in read_records(path, needed, text_format=text_format, carried=carried):
        error = record.error or text_problem(record.values.get("text"))
        yield Record(record.line, record.values, error)


def file_kind(path: Path) -> str:
    """Return the ending that names the content of a file: `.csv` of `posts.csv.gz`; lower case."""
    path = path.with_suffix("") if path.suffix.lower() in COMPRESSED_ENDINGS else path
    return path.suffix.lower()


def _open(path: Path, required: Collection[str], text_format: TextFormat) -> _OpenFile:
    if not path.exists():
        raise Fault(f"a file or `datasets` folder at {path}", "nothing there", "correct the path, or set data.folder")
    check_regular_file(path)
    try:
        if path.is_dir():
            return _open_folder(path)
        start, kind = read_start(path), file_kind(path)
        format_name = format_of(start, path)
        if format_name == PARQUET:
            return _open_parquet(path)
        if kind not in KINDS:
            raise Fault(
                f"a file ending in {', '.join(KINDS)}, or a `datasets` folder",
                f"{path.name}, {format_name}" if format_name else path.name,
                remedy_for(format_name) if format_name else "convert the file, or correct its ending",
            )
        if kind == ".parquet":
            raise _not_parquet(path, start, format_name)
        return _open_text(path, kind, required, text_format)
    except OSError as error:
        raise Fault(f"a readable file at {path}", error.strerror or str(error), "fix its permissions") from error


def _not_parquet(path: Path, start: bytes, format_name: str | None) -> Fault:
    """The fault for a file whose name promises Parquet."""
    ending = " or ".join(kind for kind in KINDS if kind != ".parquet")
    text = "text" if b"\0" not in start and start.strip() else None
    content = format_name or compression_of(start) or text or ("an empty file" if not start else "other bytes")
    return format_fault(path, content, PARQUET, f"rename it to end in {ending}" if content == "text" else None)


def _open_folder(path: Path) -> _OpenFile:
    splits = open_splits(path)
    return _OpenFile(split_columns(splits), lambda needed: split_rows(splits, path, needed), "datasets folder")


def _open_parquet(path: Path) -> _OpenFile:
    return _OpenFile(parquet_columns(path), lambda needed: parquet_rows(path, needed), "parquet")


def _open_text(path: Path, kind: str, required: Collection[str], text_format: TextFormat) -> _OpenFile:
    form = detect_text(path, text_format.encoding)
    name = kind.removeprefix(".")
    if kind in (".csv", ".tsv"):
        separator = text_format.separator or ("\t" if kind == ".tsv" else None)
        header, form = read_csv_header(path, form, required, separator)
        return _OpenFile(header, lambda _: read_csv_rows(path, form), form.describe(name))
    if kind == ".jsonl":
        return _OpenFile(json_columns(path, form), lambda _: json_rows(path, form), form.describe(name))
    rows = ((line.number, {"text": line.text.rstrip("\r\n")}, line.error) for line in read_lines(path, form))
    return _OpenFile(["text"], lambda _: rows, form.describe(name))


KINDS = (".csv", ".tsv", ".jsonl", ".txt", ".parquet")
"""Endings of files that can be read."""


def _to_record(
    number: int,
    raw: Mapping[str, Any],
    error: str | None,
    columns: Columns,
    needed: Collection[str] | None,
    carried: Collection[str],
) -> Record:
    mapping = columns.mapping()
    fields = set(Columns.model_fields) - {"target"}  # other files use that name for a column of their own
    reserved = {*mapping.values(), *mapping, *fields}
    values = {field: raw[column] for field, column in mapping.items() if column in raw}
    values |= {
        name: value
        for name, value in raw.items()
        if name in carried or (name not in reserved and (needed is None or name in needed))
    }
    if (unparsed := values.pop("", None)) is not None:
        values.setdefault("text", unparsed)
    if is_blank(name := values.get("id")):
        values["id"] = f"line-{number}"
    else:
        values["id"] = label_name(name) if isinstance(name, float) else str(name)
    part = raw.get(SPLIT_COLUMN) if columns.split is None else None
    return Record(number, values, error, None if is_blank(part) else str(part))
