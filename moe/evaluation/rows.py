"""Labelled rows as data sets hold them: their columns, and reading them in chunks."""

from collections.abc import Iterator
from typing import TypedDict, cast

from datasets import Dataset

from experts.domain import LabelSpace


class LabelledRow(TypedDict):
    """A row of a prepared data set.

    Args:
        id: of the row, unique within its task.
        text: to predict.
        target: that the label is about; None for the text itself.
        label: index of the label in its task, −1 without one.
        score: polarity, −1 to 1, or None.
        task: name of the task.
        domain: name of the domain.
    """

    id: str
    text: str
    target: str | None
    label: int
    score: float | None
    task: str
    domain: str


def iter_chunks(rows: Dataset, size: int) -> Iterator[list[LabelledRow]]:
    """Yield the rows in lists of `size`, in order."""
    for columns in rows.iter(size):
        values = zip(*columns.values(), strict=True)
        yield [cast(LabelledRow, dict(zip(columns, row, strict=True))) for row in values]


def true_label(row: LabelledRow, space: LabelSpace) -> str | None:
    """Name of a row's label; None if it has none."""
    return space.tasks[row["task"]][row["label"]] if row["label"] >= 0 else None
