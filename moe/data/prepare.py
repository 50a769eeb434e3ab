"""From one file to a `DatasetDict` on disk: rows checked, rejects told, split without leaks, kept for the next run.

How each of these is done is left to the modules beside it; what the rows become in a batch, to the rest of `moe`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.exceptions import DatasetsError

from experts.atomic_io import atomic_folder, os_errors_as_faults, read_json, sha256_of, write_json
from experts.errors import Fault
from moe.data.ingest import FEATURES, IngestCounts, check_counts, ingest_rows
from moe.data.readers import read_records
from moe.data.schema import ORIGINAL, SPLITS, DataSettings, Split, TaskSettings
from moe.data.splits import RowIndices, SplitRows, remove_cross_split_duplicates, split_rows, stratified_draw
from moe.data.validation import validate_records

REJECTED = "rejected.csv"
PREPARED = "prepared.json"
_ROWS = "rows"
_FORMAT = 3
_BATCH = 1024


@dataclass(frozen=True)
class PreparedTask:
    """A task's rows on disk.

    Args:
        splits: train, validation and test (each may be empty), columns id, text, label (-1 none), score (null none),
            lang, line, task, domain, origin, and of rows that ask prompt, answer, choices; mapped from disk, not held
            in memory.
        report: what was counted; see `format_summary`.
        folder: where they are, with `rejected.csv` and `prepared.json`.
    """

    splits: DatasetDict
    report: dict[str, Any]
    folder: Path


def prepare_task(
    path: Path, task: TaskSettings, data: DataSettings, domain: str, task_name: str, out: Path
) -> PreparedTask:
    """Prepare one task's file in a folder of its own, or take what is there when file and settings are the same.

    The file is read once, row by row; what stays in memory is a few bytes a row and the held-out texts.

    Args:
        path: the file or `datasets` folder.
        task: its settings.
        data: the run's settings.
        domain: the domain of every row, whatever the file says.
        task_name: the task of every row.
        out: the folder to fill.

    Raises:
        Fault: when the file cannot be read or `out` not be written, when no row is left, or when too many are
            rejected (`rejected.csv` is written first).
    """
    key = _fingerprint(path, task, data, domain, task_name)
    if (there := load_prepared(out, key)) is not None:
        return there
    source = read_records(path, task.columns, text_optional=task.ask is not None)
    with os_errors_as_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / PREPARED).unlink(missing_ok=True)
    scratch = out / ".rows.arrow"
    try:
        names = {"task": task_name, "domain": domain, "origin": ORIGINAL}
        tally = ingest_rows(validate_records(source, task), names, scratch, out / REJECTED)
        check_counts(tally, path, task, data, out / REJECTED)
        rows = Dataset.from_file(str(scratch))
        parts, counts = _parts(rows, tally, task, data)
        save_rows({name: rows.select(parts[name]) for name in SPLITS}, out)
    finally:
        scratch.unlink(missing_ok=True)
    file = {"file": str(path), "sha256": key["sha256"], "domain": domain, "task": task_name}
    write_json(out / PREPARED, {"key": key, "report": file | _counted(tally) | counts | _sizes(parts, tally, task)})
    prepared = load_prepared(out, key)
    assert prepared is not None
    return prepared


def format_summary(report: Mapping[str, Any]) -> str:
    """The report's counts in a few lines for the terminal."""
    gone = ", ".join(f"{count} {pair}" for pair, count in report["near_duplicates"].items() if count) or "none"
    reasons = ", ".join(f"{count} {reason}" for reason, count in report["reasons"].items())
    sizes = ", ".join(f"{name} {size['rows']} ({_named(size['labels'])})" for name, size in report["splits"].items())
    return (
        f"{report['task']} ({report['domain']}) from {report['file']}: {report['rows']} rows, "
        f"{report['rejected']} rejected{f' ({reasons})' if reasons else ''}, {report['duplicates']} duplicates\n"
        f"  near duplicates taken out: {gone}\n  {sizes}"
    )


def _named(labels: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in labels.items())


def _fingerprint(path: Path, task: TaskSettings, data: DataSettings, domain: str, task_name: str) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "sha256": _hash(path),
        "kind": path.suffix.lower(),
        "task": task.model_dump(mode="json", exclude={"file"}),
        "data": data.model_dump(mode="json", exclude={"folder", "augmented", "augment"}),
        "names": [domain, task_name],
    }


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files; empty when it cannot be read."""
    try:
        if not path.is_dir():
            return sha256_of(path)
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        listed = "\n".join(f"{inner.relative_to(path)} {sha256_of(inner)}" for inner in files)
        return hashlib.sha256(listed.encode()).hexdigest()
    except OSError:
        return ""


def load_prepared(out: Path, key: dict[str, Any]) -> PreparedTask | None:
    """What is in a folder, when it is whole and was made of the same."""
    if not (out / PREPARED).is_file() or not (out / _ROWS).is_dir():
        return None
    try:
        content = read_json(out / PREPARED)
        if content["key"] != key:
            return None
        saved = DatasetDict.load_from_disk(str(out / _ROWS), keep_in_memory=False)
        return PreparedTask(DatasetDict({name: saved.get(name, _none()) for name in SPLITS}), content["report"], out)
    except (Fault, OSError, ValueError, LookupError, TypeError, DatasetsError, pa.ArrowException):
        return None


def _parts(
    rows: Dataset, tally: IngestCounts, task: TaskSettings, data: DataSettings
) -> tuple[SplitRows, dict[str, Any]]:
    labels, own = np.array(tally.labels, dtype=np.int64), np.array(tally.own, dtype=np.int64)
    parts = split_rows(labels, own, task.split)
    gone: dict[str, int] = {}
    if data.near_duplicates is not None:
        parts, gone = remove_cross_split_duplicates(
            parts, lambda which: _texts(rows, which), data.near_duplicates, data.seed
        )
    over = 0
    caps: dict[Split, int | None] = {"train": task.max_train_rows, "validation": task.max_validation_rows}
    for name, cap in caps.items():
        if cap is not None and len(parts[name]) > cap:
            over += len(parts[name]) - cap
            parts[name], _ = stratified_draw(labels, parts[name], cap, data.seed, 2)
    return parts, {"near_duplicates": gone, "over_cap": over}


def _texts(rows: Dataset, which: RowIndices) -> Iterator[str]:
    for batch in rows.select_columns("text").select(which).iter(_BATCH):
        yield from batch["text"]


def _none() -> Dataset:
    """No rows, in the same columns; `datasets` cannot load what it saves of an empty part."""
    return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)


def save_rows(splits: Mapping[Split, Dataset], out: Path) -> None:
    """Write the rows of a folder of prepared ones; `prepared.json` with key and report is then the caller's to write.

    Raises:
        Fault: when the folder cannot be written.
    """
    full = DatasetDict({name: rows for name, rows in splits.items() if len(rows)})
    with without_progress_bars(), atomic_folder(out / _ROWS, overwrite=True) as temporary, os_errors_as_faults(out):
        full.save_to_disk(str(temporary))


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """No progress bars of `datasets` inside."""
    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _counted(tally: IngestCounts) -> dict[str, Any]:
    own = any(code >= 0 for code in tally.own)
    return {
        "rows": tally.rows,
        "rejected": tally.reasons.total(),
        "reasons": dict(tally.reasons.most_common()),
        "duplicates": tally.duplicates,
        "own_split": own,
        "without_split": tally.own.count(-1) if own else 0,
    }


def _sizes(parts: SplitRows, tally: IngestCounts, task: TaskSettings) -> dict[str, Any]:
    labels = np.array(tally.labels, dtype=np.int64)
    codes = {-1: "(none)"} | dict(enumerate(task.labels))
    sizes = {}
    for name, rows in parts.items():
        counts = Counter(labels[rows].tolist())
        sizes[name] = {
            "rows": len(rows),
            "labels": {label: counts[code] for code, label in codes.items() if code >= 0 or counts[code]},
        }
    return {"splits": sizes}
