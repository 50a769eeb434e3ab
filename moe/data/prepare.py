"""Preparation of a task's file: validated, split without leaks, saved as a `DatasetDict` and reused by the next run."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
from datasets import (
    Dataset,
    DatasetDict,
    are_progress_bars_disabled,
    disable_progress_bars,
    enable_progress_bars,
)
from datasets.exceptions import DatasetsError
from pydantic import TypeAdapter

from experts.atomic_io import MANIFEST, atomic_folder, os_errors_as_faults, sha256_of
from experts.domain import CLASSES
from experts.errors import Fault
from experts.json_io import Json
from experts.outputs import check_output_file
from experts.reused import check_manifest_once, read_sealed_json, write_sealed_json
from moe.data.column_checks import ColumnProfile
from moe.data.formats.readers import file_kind, read_task_records
from moe.data.formats.refusals import check_regular_file
from moe.data.ingest import FEATURES, RowGroups, check_counts, ingest_rows
from moe.data.schema import ORIGINAL, DataSettings, TaskSettings
from moe.data.splitting.settings import SPLITS, Split
from moe.data.task_reports import PREPARED, TASK_REPORT, TaskReport
from moe.data.task_splits import periods_of, split_sizes, split_task
from moe.data.validation import validate_records

REJECTED = "rejected.csv"
_ROWS = "rows"
_FORMAT = 6
R = TypeVar("R")


@dataclass(frozen=True)
class PreparedTask:
    """A task's rows on disk.

    Args:
        splits: train, validation and test (each may be empty) with the columns id, text, label (-1 for none), score
            (null for none), lang, line, target (null for none), task, domain, origin, and for tasks with a prompt
            template prompt, answer, choices; memory-mapped.
        report: counts.
        folder: folder of the rows, of `rejected.csv` and of `prepared.json`.
    """

    splits: DatasetDict
    report: TaskReport
    folder: Path


def prepare_task(
    path: Path, task: TaskSettings, data: DataSettings, domain: str, task_name: str, out: Path
) -> PreparedTask:
    """Prepare one task's file in its own folder, or load it from there if file and settings are unchanged.

    The file is read once, row by row; only a few bytes per row and the held-out texts stay in memory.

    Args:
        path: the file or `datasets` folder.
        task: its settings.
        data: the run's data settings.
        domain: domain of every row, whatever the file says.
        task_name: task of every row.
        out: folder to write.

    Raises:
        Fault: if the file cannot be read or `out` cannot be written, if no row is left, or if too many are rejected
            (`rejected.csv` is written first), or if the file is that `rejected.csv` itself.
    """
    check_regular_file(path)
    key = _cache_key(path, task, data, domain, task_name)
    if (cached := load_prepared(out, key)) is not None:
        return cached
    check_output_file(out / REJECTED, [path], overwrite=True)
    records = read_task_records(path, task)
    with os_errors_as_faults(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / PREPARED).unlink(missing_ok=True)
    scratch = out / ".rows.arrow"
    try:
        names = {"task": task_name, "domain": domain, "origin": ORIGINAL}
        profile, groups = ColumnProfile(task), RowGroups(task)
        results = validate_records(records, task, (profile.observe, groups.observe))
        counts = ingest_rows(results, names, scratch, out / REJECTED)
        for fault in profile.faults(path, data.max_rejected):
            raise fault
        check_counts(counts, path, task, data, str(out / REJECTED), groups)
        rows = Dataset.from_file(str(scratch))
        splits, removed = split_task(rows, counts, task, data, path)
        save_rows({name: rows.select(splits[name], new_fingerprint=_fingerprint(key, name)) for name in SPLITS}, out)
    finally:
        scratch.unlink(missing_ok=True)
    own = any(code >= 0 for code in counts.splits)
    report = TaskReport(
        file=str(path),
        sha256=str(key["sha256"]),
        domain=domain,
        task=task_name,
        kind=None if task.kind == CLASSES else task.kind,
        rows=counts.rows,
        rejected=counts.reasons.total(),
        reasons=dict(counts.reasons.most_common()),
        duplicates=counts.duplicates,
        own_split=own,
        without_split=counts.splits.count(-1) if own else 0,
        column_notes=list(profile.notes(path, data.max_rejected)),
        domains_in_file=dict(profile.domains),
        **removed,
        splits=split_sizes(splits, counts, task),
        periods=periods_of(splits, counts),
    )
    write_sealed_json(out / PREPARED, {"key": key, "report": report})
    prepared = load_prepared(out, key)
    assert prepared is not None
    return prepared


def format_summary(report: TaskReport) -> str:
    """Format a report's counts as a few lines for the terminal."""
    removed = ", ".join(f"{count} {pair}" for pair, count in report.near_duplicates.items() if count) or "none"
    reasons = ", ".join(f"{count} {reason}" for reason, count in report.reasons.items())
    if report.over_cap:
        removed += f"; {report.over_cap} rows beyond max_train_rows or max_validation_rows left out"
    if report.outside:
        removed += f"; {report.outside} rows in an embargo or outside the periods left out"
    if report.other_side:
        removed += f"; {report.other_side} rows whose text the file's split also holds out"
    sizes = ", ".join(f"{name} {size.rows}{_list(size.labels)}" for name, size in report.splits.items())
    periods = ", ".join(f"{name} {first[:10]} to {last[:10]}" for name, (first, last) in (report.periods or {}).items())
    return (
        f"{report.task} ({report.domain}) from {report.file}: {report.rows} rows, "
        f"{report.rejected} rejected{f' ({reasons})' if reasons else ''}, {report.duplicates} duplicates\n"
        f"  near duplicates removed: {removed}\n  {sizes}" + (f"\n  {periods}" if periods else "")
    )


def _list(labels: Mapping[str, int]) -> str:
    """The numbers of rows by label in brackets; empty without labels."""
    return f" ({', '.join(f'{name} {count}' for name, count in labels.items())})" if labels else ""


def _fingerprint(key: Mapping[str, Json], split: str) -> str:
    """Id of a split's rows in `datasets`, by file and settings: its own would depend on the time of writing."""
    return hashlib.sha256(json.dumps([key, split], sort_keys=True).encode()).hexdigest()[:16]


def _cache_key(path: Path, task: TaskSettings, data: DataSettings, domain: str, task_name: str) -> dict[str, Json]:
    return {
        "format": _FORMAT,
        "sha256": _hash(path),
        "kind": file_kind(path),
        "task": task.model_dump(mode="json", exclude={"file"}),
        "data": data.model_dump(mode="json", exclude={"folder", "augmented", "augment", "across_tasks"}),
        "names": [domain, task_name],
    }


def _hash(path: Path) -> str:
    """SHA-256 of a file, or of the names and hashes of a folder's files; empty if it cannot be read."""
    try:
        if not path.is_dir():
            return sha256_of(path)
        files = sorted(inner for inner in path.rglob("*") if inner.is_file())
        listing = "\n".join(f"{inner.relative_to(path)} {sha256_of(inner)}" for inner in files)
        return hashlib.sha256(listing.encode()).hexdigest()
    except OSError:
        return ""


def _files_read(rows: Path) -> list[str]:
    """Files of saved rows, but those in which `datasets` keeps results of its own."""
    files = (path for path in rows.rglob("*") if path.is_file() and path.name != MANIFEST)
    return [path.relative_to(rows).as_posix() for path in files if not path.name.startswith(("cache-", "tmp"))]


def load_prepared(out: Path, key: Mapping[str, Json]) -> PreparedTask | None:
    """Load the rows in a folder, or return None if they are incomplete or were prepared with another key."""
    loaded = load_rows(out, key, TASK_REPORT)
    return None if loaded is None else PreparedTask(*loaded, folder=out)


def load_rows(out: Path, key: Mapping[str, Json], kind: TypeAdapter[R]) -> tuple[DatasetDict, R] | None:
    """Load the rows in a folder and their report of some kind; see `load_prepared`."""
    if not (out / PREPARED).is_file() or not (out / _ROWS).is_dir():
        return None
    try:
        content = read_sealed_json(out / PREPARED)
        if content["key"] != key:
            return None
        check_manifest_once(out / _ROWS, "prepared rows", _files_read(out / _ROWS))
        saved = DatasetDict.load_from_disk(str(out / _ROWS), keep_in_memory=False)
        splits = DatasetDict({name: saved[name] if name in saved else _empty() for name in SPLITS})
        return splits, kind.validate_python(content["report"])
    except (Fault, OSError, ValueError, LookupError, TypeError, DatasetsError, pa.ArrowException):
        return None


def _empty() -> Dataset:
    """A split without rows; `datasets` cannot load an empty split that it has saved."""
    return Dataset.from_dict({name: [] for name in FEATURES}, features=FEATURES)


def save_rows(splits: Mapping[Split, Dataset], out: Path) -> None:
    """Write the rows of a prepared task; the caller then writes `prepared.json` with key and report.

    Raises:
        Fault: if the folder cannot be written.
    """
    nonempty = DatasetDict({name: rows for name, rows in splits.items() if len(rows)})
    with without_progress_bars(), atomic_folder(out / _ROWS, overwrite=True) as temporary, os_errors_as_faults(out):
        nonempty.save_to_disk(str(temporary))


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Disable the progress bars of `datasets` within the block."""
    disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not disabled:
            enable_progress_bars()
