"""Reports of prepared tasks on disk: how many rows each split has, and how many were removed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import TypeAdapter, ValidationError

from experts.atomic_io import read_json, sha256_of
from experts.domain import Kind
from experts.errors import Fault
from experts.json_io import OMIT_NONE
from moe.data.splitting.settings import Split
from moe.kinds.registry import task_kind

PREPARED, ACROSS_TASKS = "prepared.json", "across_tasks.json"
"""Report of a task, in its folder; and reports of all tasks without rows that another task holds out."""
NO_ANSWER, EMPTY_ANSWER = "(none)", "(no label)"


@dataclass(frozen=True)
class SplitSize:
    """Rows of a split.

    Args:
        rows: their number.
        labels: number of rows by label; `(none)` counts those without an answer, and `(no label)` those of a
            multi-label task whose answer is the empty set; empty for a task with a score alone.
    """

    rows: int
    labels: Mapping[str, int] = field(default_factory=dict)


def count_answers(codes: np.ndarray, labels: Sequence[str], kind: Kind) -> dict[str, int]:
    """Return the numbers of rows by label, as a report states them, from the codes of their answers (N,)."""
    counts: dict[str, int] = {}
    if not task_kind(kind).has_labels:
        return counts
    if unanswered := int((codes < 0).sum()):
        counts[NO_ANSWER] = unanswered
    counts |= dict(zip(labels, task_kind(kind).label_counts(codes, len(labels)).tolist(), strict=True))
    if task_kind(kind).is_set and (empty := int((codes == 0).sum())):
        counts[EMPTY_ANSWER] = empty
    return counts


@dataclass(frozen=True, kw_only=True)
class AugmentedReport:
    """Augmented rows of a task.

    Args:
        sha256: of the file of augmented rows.
        rows: rows that were added to train.
        origins: number of added rows by origin.
        left_out: number of other rows by the reason that they were left out for.
    """

    sha256: str
    rows: int
    origins: Mapping[str, int]
    left_out: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class TaskReport:
    """Report of a prepared task. A count that a file lacks is 0.

    Args:
        file: the task's file.
        sha256: of the file.
        domain: domain of all rows.
        task: name of the task.
        kind: its kind; None for `classes`.
        rows: valid rows of the file.
        rejected: rejected rows.
        reasons: number of rejected rows by reason.
        duplicates: rows that repeat the id and content of an earlier one.
        own_split: whether the file names the splits of its rows.
        without_split: rows of such a file without a split.
        column_notes: lines on columns that do not hold what their name says.
        domains_in_file: number of rows by the domain that the file gives them.
        near_duplicates: near duplicates removed, by pair of splits such as `train/test`.
        over_cap: rows left out beyond `max_train_rows` or `max_validation_rows`.
        other_side: rows left out because the file's split holds out their text, too.
        outside: rows of a split by time that are in an embargo or outside its periods.
        periods: first and last time of the rows of each split; None if the task has no times.
        splits: rows of each split.
        other_tasks: rows by split that were removed since another task holds out their text; None if none may be.
        augmented: rows that were added to train; None if the run uses none.
    """

    file: str = ""
    sha256: str = ""
    domain: str = ""
    task: str = ""
    kind: Kind | None = field(default=None, metadata=OMIT_NONE)
    rows: int = 0
    rejected: int = 0
    reasons: Mapping[str, int] = field(default_factory=dict)
    duplicates: int = 0
    own_split: bool = False
    without_split: int = 0
    column_notes: list[str] = field(default_factory=list)
    domains_in_file: Mapping[str, int] = field(default_factory=dict)
    near_duplicates: Mapping[str, int] = field(default_factory=dict)
    over_cap: int = 0
    other_side: int = 0
    outside: int = 0
    periods: Mapping[Split, tuple[str, str]] | None = field(default=None, metadata=OMIT_NONE)
    splits: Mapping[Split, SplitSize] = field(default_factory=dict)
    other_tasks: Mapping[Split, int] | None = field(default=None, metadata=OMIT_NONE)
    augmented: AugmentedReport | None = field(default=None, metadata=OMIT_NONE)


TASK_REPORT, AUGMENTED_REPORT = TypeAdapter(TaskReport), TypeAdapter(AugmentedReport)


def read_task_report(folder: Path) -> TaskReport:
    """Read the report of a task, without the rows that `moe.runs.across_tasks` removed.

    Args:
        folder: of the prepared task, `data/DOMAIN/TASK`.

    Raises:
        Fault: if a file cannot be read or holds something else.
    """
    content, across = read_json(folder / PREPARED), folder.parents[1] / ACROSS_TASKS
    try:
        report = TASK_REPORT.validate_python(content["report"])
    except (LookupError, TypeError, ValidationError) as error:
        expected = f"the report of a prepared task at {folder / PREPARED}"
        raise Fault(expected, "other content", "remove the file: the next command that needs it prepares it") from error
    name = f"{folder.parent.name}/{folder.name}"
    try:
        reduced = read_json(across) if across.is_file() else {}
        current = reduced["key"]["prepared"][name] == sha256_of(folder / PREPARED)
        return TASK_REPORT.validate_python(reduced["reports"][name]) if current else report
    except (LookupError, TypeError, ValueError):
        return report
