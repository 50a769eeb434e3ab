"""Labelled rows as data sets hold them: their columns, reading them in chunks, and their predictions."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict, cast

from datasets import Dataset

from experts.domain import LabelSpace
from moe.inference.predictor import Prediction
from moe.kinds.registry import task_kind


class LabelledRow(TypedDict):
    """A row of a prepared data set.

    Args:
        id: of the row, unique within its task.
        text: to predict.
        target: that the label is about; None for the text itself.
        label: code of the answer (`moe.kinds.base.TaskKind`): of one label its index in its task; −1 without one.
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


@dataclass(frozen=True)
class PredictedRow:
    """A labelled row and its predictions.

    Args:
        row: as prepared.
        true: name of the row's label; None if it has none.
        masked: prediction for the row's own task, that is with the logits masked to its labels.
        routed: prediction for the task of the most probable domain, as for a text of unknown domain.
    """

    row: LabelledRow
    true: str | None
    masked: Prediction
    routed: Prediction


def iter_chunks(rows: Dataset, size: int) -> Iterator[list[LabelledRow]]:
    """Yield the rows in lists of `size`, in order."""
    for columns in rows.iter(size):
        values = zip(*columns.values(), strict=True)
        yield [cast(LabelledRow, dict(zip(columns, row, strict=True))) for row in values]


def true_label(row: LabelledRow, space: LabelSpace) -> str | None:
    """Name of a row's label, of a multi-label task all its labels with `;` between them; None if it has none."""
    task = row["task"]
    return task_kind(space.kind(task)).answer(row["label"], space.tasks[task])
