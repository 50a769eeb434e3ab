"""Removal of rows whose text another task of the run holds out, so that tasks about the same texts do not leak.

Within a task, `moe.data.prepare` has already removed near duplicates across splits.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
from datasets import DatasetDict

from experts.atomic_io import sha256_of
from experts.domain import CLASSES, Kind
from experts.errors import Fault
from experts.json_io import Json
from experts.reused import read_sealed_json, write_sealed_json
from moe.data.dedup import NearDuplicateIndex
from moe.data.prepare import PreparedTask
from moe.data.schema import DataSettings
from moe.data.splitting.settings import Split
from moe.data.splitting.splits import text_digest
from moe.data.task_reports import (
    ACROSS_TASKS,
    EMPTY_ANSWER,
    NO_ANSWER,
    PREPARED,
    SplitSize,
    TaskReport,
    count_answers,
)

_FORMAT = 1
_MAX_NEAR_ROWS = 50_000
Removed = dict[str, dict[Split, list[int]]]
"""Removed rows by task (`DOMAIN/TASK`) and split, as positions in the split."""


def remove_across_tasks(tasks: Mapping[str, PreparedTask], data: DataSettings, folder: Path) -> dict[str, PreparedTask]:
    """Remove training rows near a held-out text of another task, and validation rows near a test text of another task.

    Test rows are never removed. Without `data.near_duplicates` only equal texts count, whatever their letter case and
    white space.

    Args:
        tasks: prepared tasks by `DOMAIN/TASK`.
        data: the run's data settings.
        folder: of the prepared rows of all domains; `across_tasks.json` in it is read again while rows and settings
            are the same.

    Returns:
        the tasks, whose reports have the numbers of removed rows by split as `other_tasks`.

    Raises:
        Fault: if the folder cannot be written, or no row of a split is left.
    """
    key: dict[str, Json] = {
        "format": _FORMAT,
        "prepared": {task: sha256_of(prepared.folder / PREPARED) for task, prepared in tasks.items()},
        "near_duplicates": [data.near_duplicates, data.seed],
    }
    removed = _read_cache(folder / ACROSS_TASKS, key)
    if removed is None:
        removed = find_shared_rows(tasks, data)
        _check_remaining(tasks, removed)
        reports = {task: _without(prepared, removed[task]).report for task, prepared in tasks.items()}
        write_sealed_json(folder / ACROSS_TASKS, {"key": key, "reports": reports, "removed": removed})
    return {task: _without(prepared, removed[task]) for task, prepared in tasks.items()}


def _check_remaining(tasks: Mapping[str, PreparedTask], removed: Removed) -> None:
    for task, prepared in tasks.items():
        for split, positions in removed[task].items():
            if positions and len(positions) == len(prepared.splits[split]):
                raise Fault(
                    f"rows of split {split} of {task} whose texts no other task holds out",
                    f"none: all {len(positions)} are near held-out texts of other tasks",
                    "split these files alike with `split: {by_text: true}`, or set data.across_tasks to false",
                )


def format_removed(report: TaskReport) -> str:
    """Format the number of removed rows as one line for the terminal; empty if there are none."""
    counts = ", ".join(f"{count} {split}" for split, count in (report.other_tasks or {}).items() if count)
    return counts and f"{report.task}: rows near held-out texts of other tasks removed: {counts}"


def _read_cache(path: Path, key: Mapping[str, Json]) -> Removed | None:
    try:
        content = read_sealed_json(path)
        return cast(Removed, content["removed"]) if content["key"] == key else None
    except (Fault, LookupError, TypeError):
        return None


def _without(prepared: PreparedTask, removed: Mapping[Split, Sequence[int]]) -> PreparedTask:
    kind = prepared.report.kind or CLASSES
    sizes = {
        split: _reduced_size(size, np.asarray(prepared.splits[split]["label"])[removed.get(split, [])], kind)
        for split, size in prepared.report.splits.items()
    }
    counts = {split: len(rows) for split, rows in removed.items()}
    report = replace(prepared.report, splits=sizes, other_tasks=counts)
    splits = {
        name: rows.select(np.setdiff1d(np.arange(len(rows)), removed[name]).tolist()) if removed.get(name) else rows
        for name, rows in prepared.splits.items()
    }
    return replace(prepared, splits=DatasetDict(splits), report=report)


def _reduced_size(size: SplitSize, codes: np.ndarray, kind: Kind) -> SplitSize:
    """Numbers of rows of a split, in total and by label, without rows of these answers (n,)."""
    names = [name for name in size.labels if name not in (NO_ANSWER, EMPTY_ANSWER)]
    gone = Counter(count_answers(codes.astype(np.int64), names, kind))
    return SplitSize(size.rows - len(codes), {name: count - gone[name] for name, count in size.labels.items()})


def find_shared_rows(tasks: Mapping[str, PreparedTask], data: DataSettings) -> Removed:
    """Find the rows that `remove_across_tasks` removes."""
    index = _TextIndex(data)
    removed: Removed = {}
    for task, prepared in tasks.items():
        index.add(task, prepared.splits["test"]["text"])
    for task, prepared in tasks.items():
        removed[task] = {"train": [], "validation": index.find(task, prepared.splits["validation"]["text"])}
    for task, prepared in tasks.items():
        gone, texts = set(removed[task]["validation"]), prepared.splits["validation"]["text"]
        index.add(task, (text for row, text in enumerate(texts) if row not in gone))
    for task, prepared in tasks.items():
        removed[task]["train"] = index.find(task, prepared.splits["train"]["text"])
    return removed


class _TextIndex:
    """Held-out texts of all tasks."""

    def __init__(self, data: DataSettings) -> None:
        self._owners: dict[bytes, set[str]] = {}
        self._near: NearDuplicateIndex[tuple[str, str]] | None = None
        if data.near_duplicates is not None:
            self._near = NearDuplicateIndex(data.near_duplicates, data.seed)

    def add(self, task: str, texts: Iterable[str]) -> None:
        """Add held-out texts of a task."""
        new = []
        for text in dict.fromkeys(texts):
            owners = self._owners.setdefault(text_digest(text), set())
            if task not in owners:
                owners.add(task)
                new.append(((task, text), text))
        if self._near is not None:
            self._near.add(new)

    def find(self, task: str, texts: Iterable[str]) -> list[int]:
        """Return the positions of the texts that are near a held-out text of another task."""
        positions: dict[str, list[int]] = {}
        for position, text in enumerate(texts):
            positions.setdefault(text, []).append(position)
        return sorted(position for text in self._shared(task, positions) for position in positions[text])

    def _shared(self, task: str, texts: Iterable[str]) -> Iterator[str]:
        unique = []
        for text in texts:
            if self._owners.get(text_digest(text), set()) - {task}:
                yield text
            else:
                unique.append(((task, text), text))
        if self._near is not None:
            for (_, text), matches in self._near.query(unique):
                if any(other != task for other, _ in matches):
                    yield text


def overlap_warnings(tasks: Mapping[str, PreparedTask], data: DataSettings) -> list[str]:
    """Return one line for each task with rows near a held-out text of another task, which nothing has removed.

    Above `_MAX_NEAR_ROWS` rows only equal texts count, whatever their letter case and white space.

    Args:
        tasks: prepared tasks by `DOMAIN/TASK`.
        data: the run's data settings.
    """
    if len(tasks) < 2:
        return []
    rows = sum(len(part) for prepared in tasks.values() for part in prepared.splits.values())
    if rows > _MAX_NEAR_ROWS:
        data = data.model_copy(update={"near_duplicates": None})
    lines = []
    for name, removed in find_shared_rows(tasks, data).items():
        counts = " and ".join(f"{len(positions)} {split}" for split, positions in removed.items() if positions)
        if counts:
            alike = "near" if data.near_duplicates is not None else "equal to"
            lines.append(
                f"{tasks[name].report.task}: {counts} rows are {alike} validation or test texts of other tasks, so "
                "metrics of the mixture are too high: set data.across_tasks: true, which removes them"
            )
    return lines
