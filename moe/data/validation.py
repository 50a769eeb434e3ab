"""Validation of records: text, label, score, split and id are checked against the task's settings, nothing is coerced.

Invalid records become rejects in the same order; `moe.data.ingest` decides how many of them are too many.
"""

import hashlib
import math
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from moe.data.column_names import find_column, find_label, find_split, fold, label_name
from moe.data.prompt_templates import TemplateMismatch, find_template
from moe.data.schema import Duplicate, Record, Reject, Row, TaskSettings
from moe.data.splitting.settings import Split
from moe.data.splitting.times import microseconds
from moe.data.text_checks import is_blank, target_problem, text_problem
from moe.kinds.registry import task_kind

UNKNOWN_LABEL = "unknown label"
UNKNOWN_SPLIT = "unknown split"
NO_TIME, INVALID_TIME = "no time", "time that cannot be read"
REPEATED_ID = "repeated id with different content"
INVALID_SCORES = ("score is not a number", "score is NaN", "score outside [-1, 1]")
Result = Row | Reject | Duplicate
Observer = Callable[[Record, Result], None]
"""Called with every record that passes `task.only`, and what became of it."""
_EXCERPT = 200


class _InvalidRecord(Exception):
    """A record that is not a valid row: the reason, and the invalid value."""

    def __init__(self, reason: str, value: object = "") -> None:
        super().__init__(reason)
        self.reason, self.value = reason, value


def validate_records(
    records: Iterable[Record], task: TaskSettings, observers: Sequence[Observer] = ()
) -> Iterator[Result]:
    """Turn each record that passes `task.only` into a row, a reject or a duplicate, in order.

    An id counts within its split. A repeated id with the same text, label and score is a duplicate, with other content
    a reject; in a task with a target, rows with different targets may share an id. The same content in another split
    is a row; the search for near duplicates later removes it from one of the splits.

    Args:
        observers: called with each record and its result.
    """
    with closing(_SeenIds()) as seen:
        for record in records:
            if not passes_filter(record, task):
                continue
            result = _validate(record, task, seen)
            for observe in observers:
                observe(record, result)
            yield result


def _validate(record: Record, task: TaskSettings, seen: "_SeenIds") -> Result:
    try:
        row = _to_row(record, task)
        return row if seen.add(row, split_of(record)) else Duplicate(row.line, row.id)
    except _InvalidRecord as invalid:
        return _to_reject(record, invalid)


def split_of(record: Record) -> str | None:
    """Return the split of a record as its file names it, in its usual spelling if it has one; None without any.

    It is the file's split whether or not the task uses it.
    """
    value = record.values.get("split", record.part)
    return None if is_blank(value) else find_split(value) or str(value)


def _to_reject(record: Record, invalid: _InvalidRecord) -> Reject:
    def excerpt(value: object) -> str:
        return str(value).encode("utf-8", "replace").decode()[:_EXCERPT]

    text = record.values.get("text")
    return Reject(
        line=record.line,
        id=excerpt(record.values["id"]),
        reason=invalid.reason,
        found=excerpt(invalid.value),
        text=excerpt("" if text is None else text),
    )


def passes_filter(record: Record, task: TaskSettings) -> bool:
    """Whether a record passes `task.only`; unreadable records pass, and are rejected later.

    Columns may differ in letter case, and numbers are compared as numbers.
    """
    if record.error or not task.only:
        return True
    return all(find_label(_value_of(record, column), allowed) is not None for column, allowed in task.only.items())


def _value_of(record: Record, column: str) -> object:
    spelling = column if column in record.values else find_column(column, list(record.values))
    return None if spelling is None else record.values[spelling]


def _to_row(record: Record, task: TaskSettings) -> Row:
    values = record.values
    if task.ask is None or record.error:
        _reject_if(record.error or text_problem(values.get("text")))
    score = _parse_score(values.get("score"))
    label = _parse_label(values.get("label"), task)
    if label is None and score is not None and task.cuts is not None:
        label = label_from_score(score, task.cuts)
    if task.has_target:
        _reject_if(target_problem(values.get("target")))
    row = Row(
        id=str(values["id"]),
        text="" if task.ask is not None else str(values["text"]),
        label=label,
        score=score,
        lang=None if is_blank(values.get("lang")) else str(values["lang"]),
        split=_parse_split(values.get("split")) if task.split.own else None,
        line=record.line,
        target=str(values["target"]).strip() if task.has_target else None,
        time=None if task.columns.time is None else _parse_time(values.get("time"), task),
    )
    _reject_if_later(row, task)
    if task.ask is not None:
        return _with_question(row, record, task)
    if task.answer_fields:
        _reject_if(task_kind(task.kind).check_answer(label, score))
    return row


def _reject_if(problem: str | None) -> None:
    if problem:
        reason, _, value = problem.partition(": ")
        raise _InvalidRecord(reason, value)


def _with_question(row: Row, record: Record, task: TaskSettings) -> Row:
    """Return the row with the question that the task's template builds from the record."""
    try:
        question = find_template(str(task.ask)).to_question(_folded(record.values), task.labels, row.label, row.target)
    except TemplateMismatch as mismatch:
        raise _InvalidRecord(mismatch.reason, mismatch.value) from None
    _reject_if(text_problem(question.text) or text_problem(question.answer))
    label = row.label
    if label is None and question.answer in task.labels:
        label = task.labels.index(question.answer)
    return replace(
        row,
        text=question.text,
        label=label,
        prompt=question.prompt,
        answer=question.answer,
        choices=question.choices,
    )


def _folded(values: Mapping[str, object]) -> dict[str, object]:
    """The values of a record, also by the folded names of their columns."""
    return {fold(name): value for name, value in values.items()} | dict(values)


def _parse_score(value: Any) -> float | None:
    if value is None or (isinstance(value, str) and is_blank(value)):
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        score = float(value)
    except (TypeError, ValueError, OverflowError):
        raise _InvalidRecord(INVALID_SCORES[0], value) from None
    if math.isnan(score):
        raise _InvalidRecord(INVALID_SCORES[1], value)
    if abs(score) > 1:
        raise _InvalidRecord(INVALID_SCORES[2], value)
    return score


def _parse_label(value: object, task: TaskSettings) -> int | None:
    kind = task_kind(task.kind)
    if not task.labels or (is_blank(value) and not kind.blank_is_answer):
        return None
    indices = []
    for each in kind.cell_values(value):
        known = find_task_label(each, task)
        if known is None:
            raise _InvalidRecord(UNKNOWN_LABEL, each)
        indices.append(task.labels.index(known))
    return kind.encode(indices)


def label_names(value: object, task: TaskSettings) -> list[str]:
    """Return the names of the labels in a cell: those of the task, and unknown ones as the file holds them."""
    if is_blank(value):
        return []
    return [find_task_label(each, task) or label_name(each) for each in task_kind(task.kind).cell_values(value)]


def find_task_label(value: object, task: TaskSettings) -> str | None:
    """Return the label of a task that a label in its file stands for; None if it is unknown."""
    if (mapped := find_label(value, task.label_map)) is not None:
        return task.label_map[mapped]
    return find_label(value, task.labels)


def _parse_split(value: object) -> Split | None:
    if is_blank(value):
        return None
    split = find_split(value)
    if split is None:
        raise _InvalidRecord(UNKNOWN_SPLIT, value)
    return split


def _parse_time(value: object, task: TaskSettings) -> int:
    if is_blank(value):
        raise _InvalidRecord(NO_TIME)
    try:
        return task.time.parse(value)
    except (ValueError, OverflowError):
        raise _InvalidRecord(INVALID_TIME, value) from None


def _reject_if_later(row: Row, task: TaskSettings) -> None:
    """Reject a row whose time is not before the next side's first time, if the file names its split."""
    split = task.split
    if row.time is None or row.split is None or split.by is None or row.split == "test":
        return
    ends = {"validation from": split.validation_from if row.split == "train" else None, "test from": split.test_from}
    for name, end in ends.items():
        if end is not None and row.time >= microseconds(task.time.in_utc(end)):
            raise _InvalidRecord(f"a {row.split} row in the future of its split, which has {name} {end}")


class _SeenIds:
    """Ids seen so far with a hash of their content, in a temporary database that spills to disk to bound memory."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, content BLOB) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def add(self, row: Row, split: str | None) -> bool:
        """Add a row and return whether it is new; generated ids (`line-N`) are not stored.

        Rows of one text may share its id if they have different targets, and rows of different splits share theirs.

        Args:
            split: the file's split of the row, whether or not the task uses it.

        Raises:
            _InvalidRecord: if its id was seen with other content.
        """
        if row.id == f"line-{row.line}":
            return True
        content, name = _content_hash(row), "\0".join((row.id, split or "", row.target or ""))
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (name, content)).rowcount:
            return True
        (before,) = self._base.execute("SELECT content FROM seen WHERE id = ?", (name,)).fetchone()
        if before != content:
            raise _InvalidRecord(REPEATED_ID, row.id)
        return False

    def close(self) -> None:
        self._base.close()


def _content_hash(row: Row) -> bytes:
    content = (row.text, row.label, row.score, row.prompt, row.answer)  # of one id and target
    return hashlib.blake2b(repr(content).encode(), digest_size=16).digest()


def label_from_score(score: float, cuts: Sequence[float]) -> int:
    """Return the class of a score among K classes, counted from the most negative.

    A score on a threshold belongs to the class nearer 0 (DAO paper, eq. 4): with the paper's thresholds 0.5 is class 3,
    0.049 and -0.049 are class 2, and -0.5 is class 1.

    Args:
        score: polarity in [-1, 1].
        cuts: ascending thresholds (K − 1,).
    """
    return sum(score > cut if cut >= 0 else score >= cut for cut in cuts)
