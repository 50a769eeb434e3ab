"""Which records are rows: text, label, score, split and id are each held against the task, nothing is coerced.

Bad records come out as rejects in their place; how many of them are too many is left to `prepare`.
"""

import hashlib
import math
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

from moe.data.prompt_templates import TemplateMismatch, find_template
from moe.data.readers import text_problem
from moe.data.schema import Duplicate, Record, Reject, Row, Split, TaskSettings

UNKNOWN_LABEL = "unknown label"
_EXCERPT = 200
_SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "test": "test",
}


class _Bad(Exception):
    """A record that is no row: the kind of fault, and the value at fault."""

    def __init__(self, reason: str, found: object = "") -> None:
        super().__init__(reason)
        self.reason, self.found = reason, found


def validate_records(records: Iterable[Record], task: TaskSettings) -> Iterator[Row | Reject | Duplicate]:
    """Each record that `task.only` lets pass, as a row, a reject or a duplicate, in order.

    An id that comes again with the same text, label and score is a duplicate, with others a reject; the same content
    in another split is a row, which the search for near duplicates then keeps from straddling.
    """
    with closing(_Seen()) as seen:
        for record in records:
            if not passes_filter(record, task):
                continue
            try:
                row = _row(record, task)
                yield row if seen.first(row) else Duplicate(row.line, row.id)
            except _Bad as bad:
                yield _reject(record, bad)


def _reject(record: Record, bad: _Bad) -> Reject:
    def shown(value: object) -> str:
        return str(value).encode("utf-8", "replace").decode()[:_EXCERPT]

    text = record.values.get("text")
    return Reject(
        record.line, shown(record.values["id"]), bad.reason, shown(bad.found), shown("" if text is None else text)
    )


def passes_filter(record: Record, task: TaskSettings) -> bool:
    """Whether `only` lets a record pass; one that could not be read always passes, to be rejected."""
    if record.error or not task.only:
        return True
    return all(str(record.values.get(column)) in allowed for column, allowed in task.only.items())


def _row(record: Record, task: TaskSettings) -> Row:
    values = record.values
    if task.ask is None or record.error:
        _refuse(record.error or text_problem(values.get("text")))
    score = _score(values.get("score"))
    label = _label(values.get("label"), task)
    if label is None and score is not None and task.cuts is not None:
        label = label_from_score(score, task.cuts)
    lang = str(values["lang"]) if values.get("lang") else None
    split = _split(values.get("split")) if task.split.own else None
    if task.ask is not None:
        return _asking(record, task, label, Row(str(values["id"]), "", None, score, lang, split, record.line))
    if task.labels and label is None and score is None:
        raise _Bad("no label and no score")
    return Row(str(values["id"]), str(values["text"]), label, score, lang, split, record.line)


def _refuse(fault: str | None) -> None:
    if fault:
        reason, _, found = fault.partition(": ")
        raise _Bad(reason, found)


def _asking(record: Record, task: TaskSettings, label: int | None, row: Row) -> Row:
    """The row with its question."""
    try:
        asked = find_template(str(task.ask)).to_question(record.values, task.labels, label)
    except TemplateMismatch as bad:
        raise _Bad(bad.reason, bad.found) from None
    _refuse(text_problem(asked.text) or text_problem(asked.answer))
    if label is None and asked.answer in task.labels:
        label = task.labels.index(asked.answer)
    row = replace(row, text=asked.text, label=label)
    return replace(row, prompt=asked.prompt, answer=asked.answer, choices=asked.choices)


def _score(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise TypeError
        score = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise _Bad("score is no number", value) from None
    if math.isnan(score):
        raise _Bad("score is NaN", value)
    if abs(score) > 1:
        raise _Bad("score outside [-1, 1]", value)
    return score


def _label(value: object, task: TaskSettings) -> int | None:
    if value is None or value == "" or not task.labels:
        return None
    # pandas writes whole-number labels beside missing ones as floats
    name = str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
    name = task.label_map.get(name, name)
    if name not in task.labels:
        raise _Bad(UNKNOWN_LABEL, value)
    return task.labels.index(name)


def _split(value: object) -> Split | None:
    if value is None or value == "":
        return None
    if str(value) not in _SPLIT_NAMES:
        raise _Bad("unknown split", value)
    return _SPLIT_NAMES[str(value)]


class _Seen:
    """Which ids came with which content, in a private database that spills to disk, so that memory stays bounded."""

    def __init__(self) -> None:
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode = OFF")
        self._base.execute("CREATE TABLE seen (id TEXT PRIMARY KEY, content BLOB, splits TEXT) WITHOUT ROWID")
        self._base.execute("BEGIN")

    def first(self, row: Row) -> bool:
        """Whether this row is new; `_Bad` when its id came with other content. Ids we gave ourselves are not held."""
        if row.id == f"line-{row.line}":
            return True
        content, split = _content(row), f"|{row.split}|"
        if self._base.execute("INSERT OR IGNORE INTO seen VALUES (?, ?, ?)", (row.id, content, split)).rowcount:
            return True
        before, splits = self._base.execute("SELECT content, splits FROM seen WHERE id = ?", (row.id,)).fetchone()
        if before != content:
            raise _Bad("repeated id with other content", row.id)
        if split in splits:
            return False
        self._base.execute("UPDATE seen SET splits = ? WHERE id = ?", (splits + split, row.id))
        return True

    def close(self) -> None:
        self._base.close()


def _content(row: Row) -> bytes:
    return hashlib.blake2b(
        repr((row.text, row.label, row.score, row.prompt, row.answer)).encode(), digest_size=16
    ).digest()


def label_from_score(score: float, cuts: Sequence[float]) -> int:
    """The class of a score among K, counted from the most negative.

    A score on a border belongs to the side nearer 0, as in the DAO paper's eq. 4: with its cuts 0.5 is class 3, 0.049
    and -0.049 are class 2, -0.5 is class 1.

    Args:
        score: polarity in [-1, 1].
        cuts: ascending borders (K - 1,).
    """
    return sum(score > cut if cut >= 0 else score >= cut for cut in cuts)
