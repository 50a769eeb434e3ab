"""Ingestion of one file: valid rows to an Arrow file, rejects to a table, and counts that decide whether to go on."""

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Features, List, Value

from experts.atomic_io import os_errors_as_faults
from experts.errors import Fault
from moe.data.formats.writers import RowWriter, open_writer
from moe.data.schema import SPLITS, DataSettings, Duplicate, Reject, Row, TaskSettings
from moe.data.validation import UNKNOWN_LABEL

_BATCH = 1024
_MAX_SHOWN_LABELS, _MAX_COUNTED_LABELS = 12, 1000


@dataclass
class IngestCounts:
    """Counts of one file, and the label and split of each of its rows.

    Args:
        rows: valid rows.
        duplicates: rows that repeat an earlier one.
        reasons: rejected rows by reason.
        unknown_labels: rows by unknown label, for the first labels seen.
        labels: label of each valid row, -1 for none.
        splits: the file's own split of each valid row, an index into `SPLITS` or -1.
    """

    rows: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    unknown_labels: Counter[str] = field(default_factory=Counter)
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    splits: "array[int]" = field(default_factory=lambda: array("b"))

    def add_row(self, row: Row) -> dict[str, Any]:
        """Count a row and return its columns."""
        label = -1 if row.label is None else row.label
        self.rows += 1
        self.labels.append(label)
        self.splits.append(-1 if row.split is None else SPLITS.index(row.split))
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
) -> Iterator[dict[str, Any]]:
    for result in results:
        if isinstance(result, Row):
            yield counts.add_row(result) | names
        elif isinstance(result, Reject):
            counts.add_reject(result)
            rejects.write(asdict(result))
        else:
            counts.duplicates += 1


def check_counts(counts: IngestCounts, path: Path, task: TaskSettings, data: DataSettings, rejected: Path) -> None:
    """Check that the file has rows and that not too many were rejected.

    Raises:
        Fault: if it has none, or the share of rejects exceeds `data.max_rejected`.
    """
    if counts.rows and counts.rejected_share <= data.max_rejected:
        return
    bad = counts.reasons.total()
    if 2 * counts.reasons[UNKNOWN_LABEL] > bad:
        raise _label_fault(counts, path, task, rejected)
    if not bad:
        filtered = f" that pass `only` ({task.only})" if task.only else ""
        raise Fault(f"rows in {path}{filtered}", "none", "use another file, or widen `only`")
    common = ", ".join(f"{reason} ({count})" for reason, count in counts.reasons.most_common(3))
    raise Fault(
        f"at most {data.max_rejected:.1%} rejected rows in {path}",
        f"{counts.rejected_share:.1%}, {bad} of {counts.rows + counts.duplicates + bad}: {common}",
        f"see {rejected}, then fix the file or its `columns`, or raise data.max_rejected",
    )


def _label_fault(counts: IngestCounts, path: Path, task: TaskSettings, rejected: Path) -> Fault:
    unknown = [repr(name) for name, _ in counts.unknown_labels.most_common(_MAX_SHOWN_LABELS)]
    hidden = len(counts.unknown_labels) - _MAX_SHOWN_LABELS
    more = f" and {hidden} more" if hidden > 0 else ""
    return Fault(
        f"labels among {', '.join([*task.labels, *task.label_map])} in {path}",
        f"{', '.join(unknown)}{more} in {counts.reasons[UNKNOWN_LABEL]} rows",
        f"map them with `label_map: {{{unknown[0]}: {task.labels[0]}}}`, or label rows by score with "
        f"`columns: {{label: null}}` and score_cuts; the rows are in {rejected}",
    )
