"""Rows of Parquet files and of saved `datasets` folders, of which only the columns that are needed are read."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from moe.data.formats.refusals import check_unique_names, parser_errors, reason_of

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import ClassLabel, Dataset

_BATCH = 1024
_COPY_AGAIN = "copy the file again, or correct its ending"

RawRow = tuple[int, Mapping[str, object], str | None]
"""Number, values by the file's column names, and why the row cannot be read, or None."""


def parquet_columns(path: Path) -> list[str]:
    """Return the column names of a Parquet file.

    Raises:
        Fault: if it is no Parquet file, or two columns have the same name.
    """
    import pyarrow.parquet as pq  # slow to import, and other files do not need it

    with parser_errors(f"a Parquet file at {path}", _COPY_AGAIN), pq.ParquetFile(path) as file:
        names = list(file.schema_arrow.names)
    check_unique_names(names, path)
    return names


def parquet_rows(path: Path, needed: Collection[str] | None) -> Iterator[RawRow]:
    """Read the rows of a Parquet file lazily.

    Args:
        path: the file.
        needed: columns to read; None reads all.

    Raises:
        Fault: if the file is damaged.
    """
    import pyarrow.parquet as pq  # as above

    with parser_errors(f"a Parquet file at {path}", _COPY_AGAIN), pq.ParquetFile(path) as file:
        names = [name for name in file.schema_arrow.names if needed is None or name in needed]
        yield from _table_rows(file.iter_batches(_BATCH, columns=names), names, path, 1)


class SavedSplit(NamedTuple):
    """One split of a saved `datasets` folder; its name is "" if the folder holds a single dataset."""

    name: str
    rows: "Dataset"

    @property
    def classes(self) -> "dict[str, ClassLabel]":
        """Columns that hold class numbers, with the names of the classes."""
        from datasets import ClassLabel

        return {column: kind for column, kind in self.rows.features.items() if isinstance(kind, ClassLabel)}


def open_splits(path: Path) -> list[SavedSplit]:
    """Open the splits of a `datasets` folder; their rows are read later.

    Raises:
        Fault: if it is not such a folder, or two of its columns have the same name.
    """
    from datasets import DatasetDict, load_from_disk

    for part in sorted(path.rglob("*.arrow")):
        check_unique_names(_arrow_columns(part), part)
    with parser_errors(f"a folder written by `Dataset.save_to_disk` at {path}", "use such a folder, or a file"):
        saved: Dataset | DatasetDict = load_from_disk(str(path), keep_in_memory=False)
    splits = saved if isinstance(saved, DatasetDict) else DatasetDict({"": saved})
    return [SavedSplit(str(name), rows) for name, rows in splits.items()]


def _arrow_columns(path: Path) -> list[str]:
    """Column names of one file of a `datasets` folder; none if it cannot be read, which `datasets` then reports."""
    import pyarrow as pa  # as above

    try:
        with pa.memory_map(str(path)) as source:
            return list(pa.ipc.open_stream(source).schema.names)
    except (OSError, pa.ArrowException):
        return []


def split_columns(splits: Sequence[SavedSplit]) -> list[str]:
    """Return the column names of all splits; `split` is one of them if the splits have names."""
    names = list(dict.fromkeys(name for split in splits for name in split.rows.column_names))
    return [*names, *(["split"] if "split" not in names and any(split.name for split in splits) else [])]


def split_rows(splits: Iterable[SavedSplit], path: Path, needed: Collection[str] | None) -> Iterator[RawRow]:
    """Read the rows of all splits, numbered consecutively; without a column `split` they get the name of their split.

    Args:
        splits: of the folder.
        path: the folder.
        needed: columns to read; None reads all.

    Raises:
        Fault: if a file is damaged.
    """
    start = 1
    for saved in splits:
        columns = list(saved.rows.column_names)
        names = [name for name in columns if needed is None or name in needed]
        split = {"split": saved.name} if saved.name and "split" not in columns else {}
        read = saved.rows.select_columns(names or columns[:1])  # without columns, rows could not be counted
        classes = {name: kind for name, kind in saved.classes.items() if name in names}
        for number, row, error in _table_rows(read.with_format("arrow").iter(_BATCH), names, path, start):
            yield (
                number,
                {**split, **row, **{name: _class_name(kind, row[name]) for name, kind in classes.items()}},
                error,
            )
        start += len(saved.rows)


def _class_name(kind: "ClassLabel", value: Any) -> Any:
    """Name of a class; None for a negative number, and a number without a name stays."""
    if value is None or not isinstance(value, int) or value >= len(kind.names):
        return value
    return None if value < 0 else kind.names[value]


def _table_rows(
    batches: "Iterable[pa.Table | pa.RecordBatch]", names: Sequence[str], path: Path, start: int
) -> Iterator[RawRow]:
    number = start
    with parser_errors(f"undamaged data in {path}", "copy the file again", lambda: f"row {number}: "):
        for batch in batches:
            for row, error in _batch_rows(batch, names):
                yield number, row, error
                number += 1


def _batch_rows(
    batch: "pa.Table | pa.RecordBatch", names: Sequence[str]
) -> Iterator[tuple[dict[str, object], str | None]]:
    errors: dict[int, str] = {}
    columns = {name: _column_values(batch.column(name), name, errors) for name in names}
    for index in range(batch.num_rows):
        yield {name: values[index] for name, values in columns.items()}, errors.get(index)


def _column_values(column: "pa.Array | pa.ChunkedArray", name: str, errors: dict[int, str]) -> list[Any]:
    """Values of a column as Python has them; one that Python cannot represent is None, with an error for its row.

    Such are dates after the year 9999, times in an unknown time zone, and structs with two fields of one name.
    """
    try:
        values: list[Any] = column.to_pylist()
    except Exception:
        values = [_value(column, index, name, errors) for index in range(len(column))]
    return values


def _value(column: "pa.Array | pa.ChunkedArray", index: int, name: str, errors: dict[int, str]) -> Any:
    try:
        return column[index].as_py()
    except UnicodeDecodeError as problem:
        errors.setdefault(index, f"broken encoding: {name}")
        return problem.object.decode("utf-8", "replace")
    except Exception as problem:
        errors.setdefault(index, f"column {name!r} cannot be read: {column.type}, {reason_of(problem)}")
        return None
