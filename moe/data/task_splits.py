"""The sides of a task's rows: split as its settings say, without near duplicates across sides, within its limits."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from datasets import Dataset
from numpy.typing import NDArray

from experts.errors import Fault
from moe.data.ingest import IngestCounts
from moe.data.schema import DataSettings, TaskSettings
from moe.data.splitting.settings import SPLITS, Split
from moe.data.splitting.splits import (
    RowIndices,
    SplitRows,
    number_texts,
    remove_cross_split_duplicates,
    split_by_hash,
    split_rows,
    split_texts,
    stratified_draw,
)
from moe.data.splitting.time_split import split_by_time, time_windows
from moe.data.splitting.times import from_microseconds
from moe.data.task_reports import SplitSize, count_answers
from moe.kinds.registry import task_kind

_BATCH = 1024
_MIN_LABEL_ROWS = 3
"""Training rows of a label from which the removal of all of them stops a run."""


class RemovedRows(TypedDict):
    """Numbers of removed rows; see `TaskReport`."""

    near_duplicates: dict[str, int]
    over_cap: int
    other_side: int
    outside: int


def split_task(
    rows: Dataset, counts: IngestCounts, task: TaskSettings, data: DataSettings, path: Path
) -> tuple[SplitRows, RemovedRows]:
    """Split the rows, remove near duplicates across splits, and cap the splits; also return the number removed."""
    codes, own = np.array(counts.labels, dtype=np.int64), np.array(counts.splits, dtype=np.int64)
    scores = np.array(rows["score"][:], dtype=np.float64)  # (N,), NaN without one
    labels = task_kind(task.kind).strata(codes, len(task.labels), scores)  # (N,), what rows are stratified by
    sides, apart = _split_sides(rows, counts, labels, own, task)
    if apart:
        _check_remaining(_rows_in_file(own, task), sides, labels, task, path)
    splits, near = sides, dict[str, int]()
    if data.near_duplicates is not None:
        splits, near = remove_cross_split_duplicates(
            splits,
            lambda indices: _texts(rows, indices),
            data.near_duplicates,
            data.seed,
            keep="train" if task.split.by_time else "test",
        )
        _check_remaining(sides, splits, labels, task, path)
    over_cap = 0
    caps: dict[Split, int | None] = {"train": task.max_train_rows, "validation": task.max_validation_rows}
    for name, cap in caps.items():
        if cap is not None and len(splits[name]) > cap:
            over_cap += len(splits[name]) - cap
            splits[name], _ = stratified_draw(labels, splits[name], cap, data.seed, 2)
    outside = len(labels) - apart - sum(map(len, sides.values())) if task.split.by_time else 0
    return splits, {"near_duplicates": near, "over_cap": over_cap, "other_side": apart, "outside": outside}


def _split_sides(
    rows: Dataset, counts: IngestCounts, labels: NDArray[np.int64], own: NDArray[np.int64], task: TaskSettings
) -> tuple[SplitRows, int]:
    """Split the rows, those of one text together if the task has a target; also return the number of removed rows."""
    if task.split.by_time:
        times = np.array(counts.times, dtype=np.int64)
        windows = time_windows(task.split, task.time, int(times.max()))
        return split_by_time(times, own if task.split.own else np.full_like(own, -1), windows), 0
    everything, from_file = np.arange(len(labels)), task.split.own and bool((own >= 0).any())
    if task.split.by_text and not from_file:
        return split_by_hash(_texts(rows, everything), task.split), 0
    if task.has_target:
        return split_texts(labels, own, number_texts(_texts(rows, everything)), task.split)
    return split_rows(labels, own, task.split), 0


def _rows_in_file(own: NDArray[np.int64], task: TaskSettings) -> SplitRows:
    """Rows of each split as the file names them; of train alone if validation rows may become test rows."""
    names = SPLITS[:1] if task.split.validation_as_test else SPLITS
    return {name: np.flatnonzero(own == SPLITS.index(name)) for name in names}


def _check_remaining(
    before: SplitRows, after: SplitRows, labels: NDArray[np.int64], task: TaskSettings, path: Path
) -> None:
    """Check that the removal of texts that another split holds out leaves rows of every split and training label.

    Raises:
        Fault: if a split, or a label with at least three training rows, has none left.
    """
    remedy = (
        "remove the copies from the file, "
        + ("" if task.split.by_time else "split at random with `split: {own: false}`, ")
        + "or keep all rows with `near_duplicates: null` under `data`"
    )
    for name, rows in before.items():
        if len(rows) and not len(after[name]):
            raise Fault(
                f"rows of split {name} in {path} that no other split repeats",
                f"none: all {len(rows)} are near duplicates of {'earlier' if task.split.by_time else 'held-out'} rows",
                remedy,
            )
    remaining = set(labels[after["train"]].tolist())
    for code, count in Counter(labels[before["train"]].tolist()).items():
        if 0 <= code < len(task.labels) and code not in remaining and count >= _MIN_LABEL_ROWS:
            raise Fault(
                f"training rows of label {task.labels[code]} in {path} that no other split repeats",
                f"none: all {count} are near duplicates of held-out rows",
                remedy,
            )


def _texts(rows: Dataset, indices: RowIndices) -> Iterator[str]:
    for batch in rows.select_columns("text").select(indices).iter(_BATCH):
        yield from batch["text"]


def periods_of(splits: SplitRows, counts: IngestCounts) -> dict[Split, tuple[str, str]] | None:
    """First and last time of the rows of each split that has any; None without times."""
    if not counts.times:
        return None
    times = np.array(counts.times, dtype=np.int64)
    ends = {name: (int(times[rows].min()), int(times[rows].max())) for name, rows in splits.items() if len(rows)}
    return {
        name: (from_microseconds(first).isoformat(), from_microseconds(last).isoformat())
        for name, (first, last) in ends.items()
    }


def split_sizes(splits: SplitRows, counts: IngestCounts, task: TaskSettings) -> dict[Split, SplitSize]:
    """Number of rows of each split, and of each of its labels."""
    codes = np.array(counts.labels, dtype=np.int64)
    return {
        split: SplitSize(len(rows), count_answers(codes[rows], task.labels, task.kind))
        for split, rows in splits.items()
    }
