"""Ingestion of one file: valid rows to an Arrow file, rejects to a table, and counts that decide whether to go on.

Rejects count for the file as a whole, for each of its splits and for each of its labels.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa
from datasets import Features, List, Value

from experts.atomic_io import os_errors_as_faults
from experts.errors import Fault
from moe.data.column_checks import ColumnProfile, split_remedy
from moe.data.column_names import find_split, nearest_label
from moe.data.formats.readers import read_task_records
from moe.data.formats.writers import RowWriter, open_writer
from moe.data.schema import DataSettings, Duplicate, Record, Reject, Row, TaskSettings
from moe.data.splitting.settings import SPLITS
from moe.data.validation import INVALID_SCORES, UNKNOWN_LABEL, Result, label_names, split_of, validate_records
from moe.kinds.multi_label import holds_several
from moe.kinds.registry import task_kind

_BATCH = 1024
_MAX_SHOWN_LABELS, _MAX_COUNTED_LABELS = 12, 1000
_SLIPS = 2
"""Rejects of a split or a label that never stop a run."""
_UNKNOWN_ROWS = 5
"""Rows from which an unknown split or label is one that was there, and not a typing error."""


@dataclass
class IngestCounts:
    """Counts of one file, and the label and split of each of its rows.

    Args:
        rows: valid rows.
        duplicates: rows that repeat an earlier one.
        reasons: rejected rows by reason.
        unknown_labels: rows by unknown label, for the first labels seen.
        labels: code of the answer of each valid row, -1 for none.
        splits: the file's own split of each valid row, an index into `SPLITS` or -1.
        times: time of each valid row, in microseconds since 1970 in UTC; empty if the task has no times.
    """

    rows: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_labels: Counter[str] = field(default_factory=Counter)
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    splits: "array[int]" = field(default_factory=lambda: array("b"))
    times: "array[int]" = field(default_factory=lambda: array("q"))

    def add_row(self, row: Row) -> dict[str, object]:
        """Count a row and return its columns, those of `FEATURES` that depend on the row."""
        label = -1 if row.label is None else row.label
        self.rows += 1
        self.labels.append(label)
        self.splits.append(-1 if row.split is None else SPLITS.index(row.split))
        if row.time is not None:
            self.times.append(row.time)
        return {
            "id": row.id,
            "text": row.text,
            "label": label,
            "score": row.score,
            "lang": row.lang,
            "line": row.line,
            "target": row.target,
            "prompt": row.prompt,
            "answer": row.answer,
            "choices": list(row.choices),
            "time": row.time,
        }

    def add_reject(self, reject: Reject) -> None:
        """Count a reject by its reason, and an unknown label by its name."""
        self.reasons[reject.reason] += 1
        if reject.reason == UNKNOWN_LABEL and len(self.unknown_labels) < _MAX_COUNTED_LABELS:
            self.unknown_labels[reject.found] += 1

    @property
    def rejected_share(self) -> float:
        """Rejected rows as a share of all rows."""
        rejected = self.reasons.total()
        return rejected / max(1, self.rows + self.duplicates + rejected)


FEATURES = Features(
    {
        "id": Value("string"),
        "text": Value("string"),
        "label": Value("int64"),
        "score": Value("float32"),
        "lang": Value("string"),
        "line": Value("int64"),
        "target": Value("string"),
        "task": Value("string"),
        "domain": Value("string"),
        "origin": Value("string"),
        "prompt": Value("string"),
        "answer": Value("string"),
        "choices": List(Value("string")),
        "time": Value("timestamp[us, tz=UTC]"),
    }
)


def ingest_rows(
    results: Iterable[Row | Reject | Duplicate], names: dict[str, str], scratch: Path, rejected: Path
) -> IngestCounts:
    """Write rows to an Arrow file and rejects to another file; only labels and splits stay in memory.

    Args:
        results: validated records.
        names: further columns with the same value in every row.
        scratch: Arrow file to write.
        rejected: file of the rejects to write.
    """
    counts = IngestCounts()
    schema = FEATURES.arrow_schema
    with (
        open_writer(rejected, Reject.__dataclass_fields__) as rejects,
        os_errors_as_faults(scratch.parent),
        pa.OSFile(str(scratch), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as stream,
    ):
        rows = _count(results, names, counts, rejects)
        while batch := list(islice(rows, _BATCH)):
            stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return counts


def _count(
    results: Iterable[Row | Reject | Duplicate], names: dict[str, str], counts: IngestCounts, rejects: RowWriter
) -> Iterator[dict[str, object]]:
    for result in results:
        if isinstance(result, Row):
            yield counts.add_row(result) | names
        elif isinstance(result, Reject):
            counts.add_reject(result)
            rejects.write(asdict(result))
        else:
            counts.duplicates += 1


@dataclass
class _Group:
    """Rows of one split or label: all of them, and the rejected ones by reason."""

    rows: int = 0
    reasons: Counter[str] = field(default_factory=Counter)

    @property
    def rejected(self) -> int:
        return self.reasons.total()

    @property
    def common(self) -> str:
        return _common(self.reasons)


class RowGroups:
    """Rows and rejects of each split and label of a file, observed row by row.

    Args:
        task: settings of the file.
    """

    def __init__(self, task: TaskSettings) -> None:
        self._task = task
        self._splits: dict[str, _Group] = {}
        self._labels: dict[str, _Group] = {}
        self._pairs: dict[str, _Group] = {}

    def observe(self, record: Record, result: Result) -> None:
        """Count a record in its split and label; an observer for `validate_records`."""
        reason = result.reason if isinstance(result, Reject) else None
        split = split_of(record) if self._task.split.own else None
        if split is not None:
            _add(self._splits, split, reason)
        for label in label_names(record.values.get("label"), self._task) if self._task.labels else ():
            _add(self._labels, label, reason)
            if split is not None and label in self._task.labels:
                _add(self._pairs, f"{label} in split {split}", reason)

    def emptied(self, path: Path, rejected: str) -> Fault | None:
        """Return a fault if all rows of a split, of a label or of a label in a split are rejected.

        Args:
            path: the file, for messages.
            rejected: where the rejects are, for messages.
        """
        for kind, groups in self._kinds():
            for name, group in groups.items():
                known = find_split(name) is not None if kind == "split" else name in self._task.labels
                least = 1 if known else _SLIPS + 1 if kind == "label and split" else _UNKNOWN_ROWS
                if group.rows >= least and group.rejected == group.rows:
                    return self._emptied_fault(kind, name, group, path, rejected)
        return None

    def above(self, path: Path, limit: float, rejected: str) -> Fault | None:
        """Return a fault if more than a share of a split or a label is rejected, and more than two rows.

        Args:
            path: the file, for messages.
            limit: the share.
            rejected: where the rejects are, for messages.
        """
        for kind, groups in self._kinds()[:2]:
            for name, group in groups.items():
                if max(_SLIPS, limit * group.rows) < group.rejected < group.rows:
                    return Fault(
                        f"at most {limit:.1%} rejected rows of {kind} {name} in {path}",
                        f"{group.rejected / group.rows:.1%}, {group.rejected} of {group.rows}: {group.common}",
                        f"see {rejected}, then fix these rows, or raise data.max_rejected",
                    )
        return None

    def _kinds(self) -> list[tuple[str, dict[str, _Group]]]:
        return [("split", self._splits), ("label", self._labels), ("label and split", self._pairs)]

    def _emptied_fault(self, kind: str, name: str, group: _Group, path: Path, rejected: str) -> Fault:
        remedy = f"see {rejected} and fix these rows"
        if kind == "split":
            others = ", ".join(other for other, its in self._splits.items() if its.rejected < its.rows) or "train"
            remedy += f", or leave this split out with `only: {{split: [{others}]}}`"
            if find_split(name) is None:
                remedy = split_remedy([name]) + remedy.partition(", or ")[2]
        elif kind == "label":
            labels = self._task.labels
            if name not in labels:
                remedy = f"map it with `label_map: {{{name!r}: {nearest_label(name, labels)}}}`, add it to labels"
            others = ", ".join(label for label in labels if label != name)
            remedy += f", or leave it out with `only: {{label: [{others}]}}`"
        subject = f"split {name}" if kind == "split" else f"label {name}"
        return Fault(
            f"valid rows of {subject} in {path}", f"none: all {group.rows} are rejected: {group.common}", remedy
        )


def _add(groups: dict[str, _Group], name: str, reason: str | None) -> None:
    if name in groups or len(groups) < _MAX_COUNTED_LABELS:
        group = groups.setdefault(name, _Group())
        group.rows += 1
        if reason is not None:
            group.reasons[reason] += 1


def _common(reasons: Counter[str]) -> str:
    """The most common reasons with their numbers of rows."""
    return ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common(3))


def check_counts(
    counts: IngestCounts, path: Path, task: TaskSettings, data: DataSettings, rejected: str, groups: RowGroups
) -> None:
    """Check that the file has rows, and that not too many of it, of a split or of a label were rejected.

    Raises:
        Fault: if it has none, if a split or a label has none left, or if a share of rejects exceeds
            `data.max_rejected`.
    """
    bad, above = counts.reasons.total(), counts.rejected_share > data.max_rejected
    if not counts.rows and not bad:
        filtered = f" that pass `only` ({task.only})" if task.only else ""
        raise Fault(f"rows in {path}{filtered}", "none", "use another file, or widen `only`")
    if (above or not counts.rows) and 2 * counts.reasons[UNKNOWN_LABEL] > bad:
        raise _label_fault(counts, path, task, rejected)
    if counts.rows and (fault := groups.emptied(path, rejected)):
        raise fault
    if above or not counts.rows:
        raise Fault(
            f"at most {data.max_rejected:.1%} rejected rows in {path}",
            f"{counts.rejected_share:.1%}, {bad} of {counts.rows + counts.duplicates + bad}: {_common(counts.reasons)}",
            _reject_remedy(counts.reasons, task, rejected),
        )
    if fault := groups.above(path, data.max_rejected, rejected):
        raise fault


def row_faults(path: Path, task: TaskSettings, data: DataSettings, inspect: str, max_rows: int) -> list[Fault]:
    """Return the faults for which the rows of a file would stop a run; nothing is written.

    Args:
        path: the file.
        task: its settings.
        data: the run's data settings.
        inspect: the command that shows its rejected rows, for messages.
        max_rows: most rows to read; of a longer file only the columns are checked.
    """
    profile, groups, counts = ColumnProfile(task), RowGroups(task), IngestCounts()
    try:
        records = read_task_records(path, task)
        results = validate_records(records, task, (profile.observe, groups.observe))
        for result in islice(results, max_rows):
            if isinstance(result, Row):
                counts.add_row(result)
            elif isinstance(result, Reject):
                counts.add_reject(result)
            else:
                counts.duplicates += 1
        if faults := profile.faults(path, data.max_rejected):
            return faults
        if next(results, None) is None:
            check_counts(counts, path, task, data, inspect, groups)
    except Fault as fault:
        return [fault]
    return []


def _reject_remedy(reasons: Counter[str], task: TaskSettings, rejected: str) -> str:
    if 2 * sum(reasons[reason] for reason in INVALID_SCORES) > reasons.total():
        if not task_kind(task.kind).has_labels:
            return f"see {rejected}, then scale the scores to -1 (negative) to 1 (positive)"
        return (
            f"see {rejected}; if the scores are no polarities, ignore them with `columns: {{score: null}}`, or fix them"
        )
    return f"see {rejected}, then fix the file or its `columns`, or raise data.max_rejected"


def _label_fault(counts: IngestCounts, path: Path, task: TaskSettings, rejected: str) -> Fault:
    names = [name for name, _ in counts.unknown_labels.most_common(_MAX_SHOWN_LABELS)]
    unknown = [repr(name) for name in names]
    hidden = len(counts.unknown_labels) - _MAX_SHOWN_LABELS
    more = f" and {hidden} more" if hidden > 0 else ""
    known = [*task.labels, *task.label_map]
    remedy = ""
    if not task_kind(task.kind).is_set and any(holds_several(name, known) for name in counts.unknown_labels):
        remedy = "if a row may have several labels, set `kind: multi_label`; else "
    remedy += f"map them with `label_map: {{{unknown[0]}: {nearest_label(names[0], task.labels)}}}`"
    if not task_kind(task.kind).is_set:
        remedy += ", or label rows by score with `columns: {label: null}` and score_cuts"
    return Fault(
        f"labels among {', '.join(known)} in {path}",
        f"{', '.join(unknown)}{more} in {counts.reasons[UNKNOWN_LABEL]} rows",
        f"{remedy}; see {rejected}",
    )
