"""One pass over a file: rows to an Arrow file, rejects to theirs, the counts that say whether it is fit for use.

What makes a row bad is told in `check`; the splits that are made of the rows, in `prepare`.
"""

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
from moe.data.schema import SPLITS, DataSettings, Duplicate, Reject, Row, TaskSettings
from moe.data.validation import UNKNOWN_LABEL
from moe.data.writers import RowWriter, open_writer

_BATCH = 1024
_MOST_NAMED, _MOST_HELD = 12, 1000


@dataclass
class IngestCounts:
    """What passed by while the file was read once."""

    rows: int = 0
    duplicates: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    strange: Counter[str] = field(default_factory=Counter)
    labels: "array[int]" = field(default_factory=lambda: array("q"))
    own: "array[int]" = field(default_factory=lambda: array("b"))

    def keep(self, row: Row) -> dict[str, Any]:
        """Count a row, and give its columns."""
        label = -1 if row.label is None else row.label
        self.rows += 1
        self.labels.append(label)
        self.own.append(-1 if row.split is None else SPLITS.index(row.split))
        own = {"id": row.id, "text": row.text, "label": label, "score": row.score, "lang": row.lang, "line": row.line}
        return own | {"prompt": row.prompt, "answer": row.answer, "choices": list(row.choices)}

    def reject(self, reject: Reject) -> None:
        """Count a reject by its reason, and an unknown label by its name while there are few."""
        self.reasons[reject.reason] += 1
        if reject.reason == UNKNOWN_LABEL and len(self.strange) < _MOST_HELD:
            self.strange[reject.found] += 1

    @property
    def rejected_share(self) -> float:
        """Bad rows over all rows."""
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
        "task": Value("string"),
        "domain": Value("string"),
        "origin": Value("string"),
        "prompt": Value("string"),
        "answer": Value("string"),
        "choices": List(Value("string")),
    }
)


def ingest_rows(
    found: Iterable[Row | Reject | Duplicate], names: dict[str, str], scratch: Path, rejected: Path
) -> IngestCounts:
    """Read the file once: rows to an Arrow file, rejects to theirs, labels and splits to memory."""
    tally = IngestCounts()
    schema = FEATURES.arrow_schema
    with (
        open_writer(rejected, Reject.__dataclass_fields__) as rejects,
        os_errors_as_faults(scratch.parent),
        pa.OSFile(str(scratch), "wb") as sink,
        pa.ipc.new_stream(sink, schema) as stream,
    ):
        kept = _kept(found, names, tally, rejects)
        while batch := list(islice(kept, _BATCH)):
            stream.write_batch(pa.RecordBatch.from_pylist(batch, schema=schema))
    return tally


def _kept(
    found: Iterable[Row | Reject | Duplicate], names: dict[str, str], tally: IngestCounts, rejects: RowWriter
) -> Iterator[dict[str, Any]]:
    for one in found:
        if isinstance(one, Row):
            yield tally.keep(one) | names
        elif isinstance(one, Reject):
            tally.reject(one)
            rejects.write(asdict(one))
        else:
            tally.duplicates += 1


def check_counts(tally: IngestCounts, path: Path, task: TaskSettings, data: DataSettings, rejected: Path) -> None:
    """Stop a run whose file is not what the settings say."""
    if tally.rows and tally.rejected_share <= data.max_rejected:
        return
    bad = tally.reasons.total()
    if 2 * tally.reasons[UNKNOWN_LABEL] > bad:
        raise _label_fault(tally, path, task, rejected)
    if not bad:
        chosen = f" that `only` lets pass ({task.only})" if task.only else ""
        raise Fault(f"rows in {path}{chosen}", "none", "name another file or widen `only`")
    common = ", ".join(f"{reason} ({count})" for reason, count in tally.reasons.most_common(3))
    raise Fault(
        f"at most {data.max_rejected:.1%} bad rows in {path}",
        f"{tally.rejected_share:.1%}, {bad} of {tally.rows + tally.duplicates + bad}: {common}",
        f"look at {rejected}, mend the file or its `columns`, or raise max_rejected",
    )


def _label_fault(tally: IngestCounts, path: Path, task: TaskSettings, rejected: Path) -> Fault:
    strange = [repr(name) for name, _ in tally.strange.most_common(_MOST_NAMED)]
    more = f" and {len(tally.strange) - _MOST_NAMED} more" if len(tally.strange) > _MOST_NAMED else ""
    return Fault(
        f"labels of {path} among {', '.join([*task.labels, *task.label_map])}",
        f"{', '.join(strange)}{more} in {tally.reasons[UNKNOWN_LABEL]} rows",
        f"lead them there by `label_map: {{{strange[0]}: {task.labels[0]}}}`, or by score with "
        f"`columns: {{label: null}}` and score_cuts; the rows are in {rejected}",
    )
