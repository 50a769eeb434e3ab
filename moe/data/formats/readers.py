"""Lazy readers of csv, jsonl, txt, parquet and `datasets` folders: records in order, each with its line number.

`moe.data.validation` checks the records; readers only rename columns and report what cannot be decoded.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experts.errors import Fault
from moe.data.column_names import find_column, label_name, match_columns
from moe.data.formats.text_lines import check_is_text, read_csv_header, read_csv_rows, read_lines
from moe.data.schema import Columns, Record, TaskSettings
from moe.data.text_checks import is_blank, is_encodable, text_problem

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import ClassLabel, Dataset

_BATCH = 1024
DEFAULT_TARGET_COLUMN = "target"
_HEADER_ROWS = 1000
"""Rows of a jsonl file from which its columns are collected."""

RawRow = tuple[int, dict[str, Any], str | None]
"""Number, values by the file's column names, and why the row cannot be read, or None."""


class SavedSplit(NamedTuple):
    """One split of a saved `datasets` folder; its name is "" if the folder holds a single dataset."""

    split: str
    columns: list[str]
    rows: int
    tables: "Iterator[pa.Table]"
    classes: "dict[str, ClassLabel]"

    def with_class_names(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row with class names in place of class numbers."""
        return row | {name: _class_name(kind, row[name]) for name, kind in self.classes.items() if name in row}


class _OpenFile(NamedTuple):
    """Column names of a file, and its rows."""

    columns: list[str]
    rows: Iterator[RawRow]


def read_records(
    path: Path, columns: Columns = Columns(), text_optional: bool = False, needs_label: bool = False
) -> Iterator[Record]:
    """Read the records of a file lazily.

    The file is opened and its columns are checked before this function returns. Column names may differ in
    letter case. A record without an id is named `line-N`.

    Args:
        path: csv, jsonl, txt or parquet file, or a `datasets` folder.
        columns: names of the file's columns.
        text_optional: do not require a text column, since a row may hold a complete question.
        needs_label: require a column of labels or of scores.

    Raises:
        Fault: if the file is missing, of an unknown kind, binary or empty, or lacks a required column.
    """
    file = _open(path)
    columns = match_columns(file.columns, columns, path, text_optional=text_optional, needs_label=needs_label)
    return (_to_record(number, values, error, columns) for number, values, error in file.rows)


def read_task_records(path: Path, task: TaskSettings) -> Iterator[Record]:
    """Read the records of a task's file as `read_records` does, with the columns that the task requires."""
    asks = task.ask is not None
    return read_records(path, task.columns, text_optional=asks, needs_label=bool(task.labels) and not asks)


def columns_of_texts(path: Path, text: str, target: str | None = None) -> Columns:
    """Return the columns of a file of texts to predict: a column `target` is used if the file has one.

    Args:
        text: name of the text column.
        target: name of the target column, which is then required; by default `target`, if there is such a column.

    Raises:
        Fault: as `read_column_names`.
    """
    if target is None and text != DEFAULT_TARGET_COLUMN:
        target = find_column(DEFAULT_TARGET_COLUMN, read_column_names(path))
    return Columns(text=text, target=target)


def read_column_names(path: Path) -> list[str]:
    """Return the names of a file's columns; of a jsonl file, those in its first rows.

    Raises:
        Fault: if the file is missing, of an unknown kind, binary or empty.
    """
    return _open(path).columns


def read_texts(path: Path, columns: Columns = Columns()) -> Iterator[Record]:
    """Read every record of a file, in order; a record without a valid text has an error.

    Raises:
        Fault: as `read_records`.
    """
    for record in read_records(path, columns):
        error = record.error or text_problem(record.values.get("text"))
        yield Record(record.line, record.values, error)


def _open(path: Path) -> _OpenFile:
    if not path.exists():
        raise Fault(f"a file or `datasets` folder at {path}", "nothing there", "correct the path, or set data.folder")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() not in _OPENERS:
        raise Fault(
            f"a file ending in {', '.join(_OPENERS)}, or a `datasets` folder",
            path.name,
            "convert the file, or correct its ending",
        )
    try:
        return _OPENERS[path.suffix.lower()](path)
    except OSError as error:
        raise Fault(f"a readable file at {path}", error.strerror or str(error), "fix its permissions") from error


def _to_record(number: int, raw: dict[str, Any], error: str | None, columns: Columns) -> Record:
    mapping = columns.mapping()
    fields = set(Columns.model_fields) - {"target"}  # other files use that name for a column of their own
    reserved = {*mapping.values(), *mapping, *fields}
    values = {field: raw[column] for field, column in mapping.items() if column in raw}
    values |= {name: value for name, value in raw.items() if name not in reserved}
    if (unparsed := values.pop("", None)) is not None:
        values.setdefault("text", unparsed)
    if is_blank(name := values.get("id")):
        values["id"] = f"line-{number}"
    else:
        values["id"] = label_name(name) if isinstance(name, float) else str(name)
    part = raw.get("split") if columns.split is None else None
    return Record(number, values, error, None if is_blank(part) else str(part))


def _open_csv(path: Path) -> _OpenFile:
    check_is_text(path)
    return _OpenFile(read_csv_header(path), read_csv_rows(path))


def _open_text(path: Path) -> _OpenFile:
    check_is_text(path)
    rows = ((line.number, {"text": line.text.rstrip("\r\n")}, line.error) for line in read_lines(path))
    return _OpenFile(["text"], rows)


def _open_jsonl(path: Path) -> _OpenFile:
    check_is_text(path)
    first = islice(_json_rows(path), _HEADER_ROWS)
    names = list(dict.fromkeys(key for _, raw, error in first if error is None for key in raw))
    return _OpenFile(names, _json_rows(path))


def _json_rows(path: Path) -> Iterator[RawRow]:
    for line in read_lines(path):
        if line.text.strip():
            yield line.number, *_parse_json(line.text.strip(), line.error)


def _parse_json(text: str, error: str | None) -> tuple[dict[str, Any], str | None]:
    if error:
        return {"": text}, error
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as problem:
        return {"": text}, f"invalid JSON: {problem}"
    if not isinstance(row, dict):
        return {"": text}, f"not a JSON object: {type(row).__name__}"
    if "\\u" in text and not is_encodable(json.dumps(row, ensure_ascii=False)):
        return {"": text}, "broken encoding: unpaired surrogate"
    return row, None


def _open_parquet(path: Path) -> _OpenFile:
    import pyarrow as pa  # slow to import, and other files do not need it
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise Fault(f"a Parquet file at {path}", str(error), "copy the file again, or correct its ending") from error
    return _OpenFile(file.schema_arrow.names, _table_rows(file.iter_batches(_BATCH), path, 1))


def _open_folder(path: Path) -> _OpenFile:
    splits = open_saved_splits(path)
    names = list(dict.fromkeys(name for split in splits for name in split.columns))
    added = ["split"] if "split" not in names and any(split.split for split in splits) else []
    return _OpenFile([*names, *added], _split_rows(splits, path))


def _split_rows(splits: Iterable[SavedSplit], path: Path) -> Iterator[RawRow]:
    """Rows of all splits, numbered consecutively; rows without a column `split` get the name of their split."""
    start = 1
    for saved in splits:
        split = {"split": saved.split} if saved.split and "split" not in saved.columns else {}
        for number, row, error in _table_rows(saved.tables, path, start):
            yield number, split | saved.with_class_names(row), error
        start += saved.rows


def _table_rows(batches: "Iterable[pa.Table | pa.RecordBatch]", path: Path, start: int) -> Iterator[RawRow]:
    import pyarrow as pa  # as above

    number = start
    try:
        for batch in batches:
            for row, error in _batch_rows(batch):
                yield number, row, error
                number += 1
    except (pa.ArrowInvalid, OSError) as problem:
        raise Fault(f"undamaged data in {path}", f"row {number}: {problem}", "copy the file again") from problem


def _batch_rows(batch: "pa.Table | pa.RecordBatch") -> Iterator[tuple[dict[str, Any], str | None]]:
    try:
        yield from [(row, None) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            yield _decode_row(batch.slice(index, 1))


def _decode_row(batch: "pa.Table | pa.RecordBatch") -> tuple[dict[str, Any], str | None]:
    row, error = {}, None
    for name in batch.schema.names:
        try:
            row[name] = batch.column(name)[0].as_py()
        except UnicodeDecodeError as problem:
            row[name] = problem.object.decode("utf-8", "replace")
            error = f"broken encoding: {name}"
    return row, error


_OPENERS: dict[str, Callable[[Path], _OpenFile]] = {
    ".csv": _open_csv,
    ".jsonl": _open_jsonl,
    ".txt": _open_text,
    ".parquet": _open_parquet,
}


def open_saved_splits(path: Path) -> list[SavedSplit]:
    """Open the splits of a `datasets` folder; their rows are read later.

    Raises:
        Fault: if it is not such a folder.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        saved = load_from_disk(str(path), keep_in_memory=False)
    except (OSError, ValueError) as error:
        raise Fault(
            f"a folder written by `Dataset.save_to_disk` at {path}", str(error), "use such a folder, or a file"
        ) from error
    splits = saved if isinstance(saved, DatasetDict) else DatasetDict({"": saved})
    return [_saved_split(str(name), split) for name, split in splits.items()]


def _saved_split(name: str, rows: "Dataset") -> SavedSplit:
    from datasets import ClassLabel

    classes = {column: kind for column, kind in rows.features.items() if isinstance(kind, ClassLabel)}
    return SavedSplit(
        split=name,
        columns=rows.column_names,
        rows=len(rows),
        tables=rows.with_format("arrow").iter(_BATCH),
        classes=classes,
    )


def _class_name(kind: "ClassLabel", value: int | None) -> str | None:
    return None if value is None or value < 0 else str(kind.int2str(value))
