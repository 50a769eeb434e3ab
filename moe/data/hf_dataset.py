"""Folders of `datasets.save_to_disk`, part by part, as Arrow tables with class numbers as names.

`datasets` is imported only when there is such a folder: importing it takes longer than answering a text.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from experts.errors import Fault

if TYPE_CHECKING:
    from datasets import ClassLabel, Dataset

_BATCH = 1024


class Part(NamedTuple):
    """One part of a saved folder; its split is "" where the folder holds a single dataset."""

    split: str
    columns: list[str]
    rows: int
    tables: Iterator[pa.Table]
    classes: "dict[str, ClassLabel]"

    def named(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row with the names of its classes in place of their numbers."""
        return row | {name: _class_name(kind, row[name]) for name, kind in self.classes.items() if name in row}


def saved_parts(path: Path) -> list[Part]:
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


def _part(split: str, part: "Dataset") -> Part:
    from datasets import ClassLabel

    classes = {column: kind for column, kind in part.features.items() if isinstance(kind, ClassLabel)}
    return Part(split, part.column_names, len(part), part.with_format("arrow").iter(_BATCH), classes)


def _class_name(kind: "ClassLabel", value: int | None) -> str | None:
    return None if value is None or value < 0 else str(kind.int2str(value))
