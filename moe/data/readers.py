"""Records of any file we read, in order, lazily, each with the line it stands in: csv, jsonl, txt, parquet, `datasets`.

Whether a record is a good row is left to `check`; here it is only read and its columns given our names.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from experts.errors import Fault
from moe.data.schema import Columns, Record
from moe.data.text_lines import check_is_text, read_csv_header, read_csv_rows, read_lines

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

_BATCH = 1024
_PEEK = 1000
_LIKELY_TEXT = {
    "text",
    "sentence",
    "headline",
    "title",
    "question",
    "content",
    "body",
    "tweet",
    "post",
    "标题",
    "内容",
    "文本",
}

RawRow = tuple[int, dict[str, Any], str | None]


class SavedSplit(NamedTuple):
    """One part of a saved folder; its split is "" where the folder holds a single dataset."""

    split: str
    columns: list[str]
    rows: int
    tables: Iterator[pa.Table]
    classes: "dict[str, ClassLabel]"

    def with_class_names(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the names of its classes in place of their numbers."""
        return row | {name: _class_name(kind, row[name]) for name, kind in self.classes.items() if name in row}


class _File(NamedTuple):
    """The columns that a file has, and its rows as it has them."""

    columns: list[str]
    rows: Iterator[RawRow]


def read_records(path: Path, columns: Columns = Columns(), text_optional: bool = False) -> Iterator[Record]:
    """Every record of a file, as it is asked for.

    The file is opened and its columns looked at before this returns. A record without an id gets `line-N`.

    Args:
        text_optional: a text is not needed, since a row may be a whole question.

    Raises:
        Fault: when the file is missing, of an unknown kind, binary, empty, or lacks a column that is needed.
    """
    file = _open(path)
    _demand(file.columns, columns, path, text_optional)
    return (_renamed(*raw, columns) for raw in file.rows)


def read_texts(path: Path, columns: Columns = Columns()) -> Iterator[Record]:
    """Every record of a file, in order, none left out; one whose text is empty or no text carries an error.

    Raises:
        Fault: as `read_records` does.
    """
    for record in read_records(path, columns):
        error = record.error or text_problem(record.values.get("text"))
        yield Record(record.line, record.values, error)


def text_problem(value: object) -> str | None:
    """Why a value cannot be a row's text, or None."""
    if value is None:
        return "missing text"
    if not isinstance(value, str):
        return f"text is no text: {type(value).__name__}"
    if not any(letter.isprintable() and not letter.isspace() for letter in value):
        return "missing text"
    return None if is_encodable(value) else "broken encoding: half a surrogate pair"


def is_encodable(text: str) -> bool:
    """Whether a string can be written as UTF-8 (JSON can smuggle in half a surrogate pair)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _open(path: Path) -> _File:
    if not path.exists():
        raise Fault(f"a file or `datasets` folder at {path}", "nothing there", "name another, or set the data folder")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix.lower() not in _OPENERS:
        raise Fault(
            f"a file ending in {', '.join(_OPENERS)}, or a `datasets` folder",
            path.name,
            "convert it, or give it its right ending",
        )
    try:
        return _OPENERS[path.suffix.lower()](path)
    except OSError as error:
        raise Fault(f"a readable file at {path}", error.strerror or str(error), "mend its rights") from error


def _demand(found: list[str], columns: Columns, path: Path, text_optional: bool) -> None:
    """Refuse a file without a needed column; where no row could be read to tell, the rows' own errors do."""
    missing = sorted(columns.required() - set(found) - ({columns.text} if text_optional else set()))
    if not missing or not found:
        return
    ours = {theirs: ours for ours, theirs in columns.mapping().items()}
    guess = next((name for name in found if name.lower() in _LIKELY_TEXT), "…")
    wanted = ", ".join(f"{ours[name]}: {guess if ours[name] == 'text' else '…'}" for name in missing)
    raise Fault(
        f"a column {' and a column '.join(map(repr, missing))} in {path.name}",
        f"the columns {', '.join(found) or '(none)'}",
        f"name the right one by `columns: {{{wanted}}}`",
    )


def _renamed(number: int, raw: dict[str, Any], error: str | None, columns: Columns) -> Record:
    names = columns.mapping()
    taken = set(names.values()) | set(Columns.model_fields)
    values = {ours: raw[theirs] for ours, theirs in names.items() if theirs in raw}
    values |= {name: value for name, value in raw.items() if name not in taken}
    if (unnamed := values.pop("", None)) is not None:
        values.setdefault("text", unnamed)
    values["id"] = f"line-{number}" if values.get("id") in (None, "") else str(values["id"])
    return Record(number, values, error)


def _open_csv(path: Path) -> _File:
    check_is_text(path)
    return _File(read_csv_header(path), read_csv_rows(path))


def _open_text(path: Path) -> _File:
    check_is_text(path)
    return _File(["text"], ((line.number, {"text": line.text.rstrip("\r\n")}, line.error) for line in read_lines(path)))


def _open_jsonl(path: Path) -> _File:
    check_is_text(path)
    first = islice(_json_rows(path), _PEEK)
    return _File(list(dict.fromkeys(key for _, raw, error in first if error is None for key in raw)), _json_rows(path))


def _json_rows(path: Path) -> Iterator[RawRow]:
    for line in read_lines(path):
        if line.text.strip():
            yield line.number, *_json_row(line.text.strip(), line.error)


def _json_row(text: str, error: str | None) -> tuple[dict[str, Any], str | None]:
    if error:
        return {"": text}, error
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as fault:
        return {"": text}, f"no JSON: {fault}"
    if not isinstance(row, dict):
        return {"": text}, f"no JSON object: {type(row).__name__}"
    if "\\u" in text and not is_encodable(json.dumps(row, ensure_ascii=False)):
        return {"": text}, "broken encoding: half a surrogate pair"
    return row, None


def _open_parquet(path: Path) -> _File:
    try:
        file = pq.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise Fault(f"a Parquet file at {path}", str(error), "copy it again, or give it its right ending") from error
    return _File(file.schema_arrow.mapping, _rows(file.iter_batches(_BATCH), path, 1))


def _open_folder(path: Path) -> _File:
    parts = open_saved_splits(path)
    names = list(dict.fromkeys(name for part in parts for name in part.columns))
    added = ["split"] if "split" not in names and any(part.split for part in parts) else []
    return _File([*names, *added], _parts(parts, path))


def _parts(parts: Iterable[SavedSplit], path: Path) -> Iterator[RawRow]:
    """The rows of every part, numbered on; the part's name is the split of a row that names none."""
    start = 1
    for part in parts:
        own = {"split": part.split} if part.split and "split" not in part.columns else {}
        for number, row, error in _rows(part.tables, path, start):
            yield number, own | part.with_class_names(row), error
        start += part.rows


def _rows(batches: Iterable[pa.Table | pa.RecordBatch], path: Path, start: int) -> Iterator[RawRow]:
    number = start
    try:
        for batch in batches:
            for row, error in _batch_rows(batch):
                yield number, row, error
                number += 1
    except (pa.ArrowInvalid, OSError) as fault:
        raise Fault(f"whole data in {path}", f"row {number}: {fault}", "copy the file again") from fault


def _batch_rows(batch: pa.Table | pa.RecordBatch) -> Iterator[tuple[dict[str, Any], str | None]]:
    try:
        yield from [(row, None) for row in batch.to_pylist()]
    except UnicodeDecodeError:
        for place in range(batch.num_rows):
            yield _single_row(batch.slice(place, 1))


def _single_row(batch: pa.Table | pa.RecordBatch) -> tuple[dict[str, Any], str | None]:
    row, error = {}, None
    for name in batch.schema.mapping:
        try:
            row[name] = batch.column(name)[0].as_py()
        except UnicodeDecodeError as fault:
            row[name] = fault.object.decode("utf-8", "replace")
            error = f"broken encoding: {name}"
    return row, error


_OPENERS: dict[str, Callable[[Path], _File]] = {
    ".csv": _open_csv,
    ".jsonl": _open_jsonl,
    ".txt": _open_text,
    ".parquet": _open_parquet,
}


def open_saved_splits(path: Path) -> list[SavedSplit]:
    """The parts of a folder, not read yet.

    Raises:
        Fault: when it is no such folder.
    """
    from datasets import DatasetDict, load_from_disk

    try:
        whole = load_from_disk(str(path), keep_in_memory=False)
    except (OSError, ValueError) as error:
        raise Fault(f"a folder of `Dataset.save_to_disk` at {path}", str(error), "name a file instead") from error
    parts = whole if isinstance(whole, DatasetDict) else DatasetDict({"": whole})
    return [_part(str(split), part) for split, part in parts.items()]


def _part(split: str, part: "Dataset") -> SavedSplit:
    from datasets import ClassLabel

    classes = {column: kind for column, kind in part.features.items() if isinstance(kind, ClassLabel)}
    return SavedSplit(split, part.column_names, len(part), part.with_format("arrow").iter(_BATCH), classes)


def _class_name(kind: "ClassLabel", value: int | None) -> str | None:
    return None if value is None or value < 0 else str(kind.int2str(value))
