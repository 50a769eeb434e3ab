"""Warnings about the rows of a run or a file, one line each with what to do; none if nothing is wrong."""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from moe import distributed
from moe.config.run import RunSettings
from moe.console import suppress_output
from moe.data.column_checks import domain_note
from moe.data.column_names import label_name
from moe.data.formats.readers import read_task_records
from moe.data.prepare import PreparedTask, prepare_task
from moe.data.schema import DataSettings, TaskSettings
from moe.evaluation.levels import chance_warnings, split_levels, validation_levels
from moe.evaluation.row_warnings import count_warnings, removed_overlap_warning, shared_text_warning
from moe.runs.across_tasks import overlap_warnings
from moe.runs.workspace import Workspace

MAX_CHECKED_BYTES = 10 * 2**20
"""Size of all files above which `moe check` and `moe data inspect` do not prepare the rows: it should take seconds."""
_MAX_LABELS = 50


def print_data_warnings(work: Workspace, domains: Iterable[str] | None = None) -> None:
    """Print the warnings about a run's rows before the first training; those of a domain only once.

    Args:
        domains: only these domains; all by default.

    Raises:
        Fault: if a file of rows is missing or has too many invalid rows.
    """
    if work.run.language is not None:
        return
    distributed.init_process_group()
    names = list(work.run.domains) if domains is None else list(domains)
    if work.checked_domains.issuperset(names):
        return
    work.checked_domains.update(names)
    for name in names:
        work.prepared(name)  # in all processes, which wait for each other here
    for line in distributed.broadcast_from_main(lambda: data_warnings(work, names)):
        work.warn(line)


def data_warnings(work: Workspace, domains: Sequence[str]) -> list[str]:
    """Return the warnings about the rows of some domains of a run; also writes `levels.json`."""
    run = work.run
    prepared = {f"{name}/{task}": its for name in domains for task, its in work.prepared(name).items()}
    settings = {f"{name}/{task}": its for name in domains for task, its in run.tasks_of(name).items()}
    lines = []
    for name, task in prepared.items():
        lines += _task_warnings(task, settings[name], run.data)
        domain, file = name.partition("/")[0], Path(task.report.file).name
        if line := domain_note(task.report.domains_in_file, domain, list(run.domains), settings[name], file):
            lines.append(line)
    if not run.removes_across_tasks:
        lines += overlap_warnings(prepared, run.data)
    return lines + chance_warnings(validation_levels(work, domains))


def config_warnings(run: RunSettings) -> list[str]:
    """Return the warnings about the rows of a config's files, if they are not too large; nothing is kept.

    Domains on the made-up sample are left out.
    """
    if run.language is not None:
        return []
    named = [name for name in run.domains if all(task.file is not None for task in run.tasks_of(name).values())]
    files = {run.data.path(str(task.file)) for name in named for task in run.tasks_of(name).values()}
    if sum(map(_size, files)) > MAX_CHECKED_BYTES:
        return []
    own_rows = run.model_copy(update={"data": run.data.model_copy(update={"augmented": False})})
    with tempfile.TemporaryDirectory() as folder, suppress_output():
        try:
            return data_warnings(Workspace(own_rows, Path(folder)), named)
        except Fault as fault:
            return [f"expected {fault.expected}, found {fault.found}: see moe data inspect FILE --domain NAME"]


def file_warnings(path: Path, task: TaskSettings | None = None, name: str | None = None) -> list[str]:
    """Return the warnings about a labelled file, split as a run would split it; none for large or unlabelled files.

    Args:
        path: the file.
        task: settings of its task; by default all settings have their defaults.
        name: name of the task; by default that of the file, and a task without labels gets those in the file.
    """
    if _size(path) > MAX_CHECKED_BYTES:
        return []
    if task is None or (not task.answer_fields and name is None):
        task = _settings_of(path, task or TaskSettings())
    name = path.stem if name is None else name
    if task is None or not task.answer_fields:
        return []
    with tempfile.TemporaryDirectory() as folder, suppress_output():
        try:
            prepared = prepare_task(path, task, DataSettings(max_rejected=1.0), name, name, Path(folder))
        except Fault:
            return []  # the inspection shows what is wrong with the rows
        lines = _task_warnings(prepared, task, DataSettings())
        if line := removed_overlap_warning(prepared.report):
            lines.append(line)
        targets = (name,) if task.has_target else ()
        space = LabelSpace.from_domains(
            [Domain("file", {name: task.labels}, target_tasks=targets, kinds={name: task.kind})]
        )
        level = split_levels(prepared.splits["train"], prepared.splits["validation"], space, name)
        return lines + chance_warnings({name: level} if level else {})


def _task_warnings(prepared: PreparedTask, task: TaskSettings, data: DataSettings) -> list[str]:
    lines = [*prepared.report.column_notes, *count_warnings(prepared.report, task)]
    if data.near_duplicates is None and (line := shared_text_warning(prepared.splits, prepared.report.task)):
        lines.append(line)
    return lines


def _settings_of(path: Path, task: TaskSettings) -> TaskSettings | None:
    """Settings for a file that no config describes: its labels as they are named; None if it has none or too many."""
    labels: dict[str, None] = {}
    for record in read_task_records(path, task):
        label = record.values.get("label")
        if not record.error and label not in (None, ""):
            labels.setdefault(label_name(label))
        if len(labels) > _MAX_LABELS:
            return None
    return task.model_copy(update={"labels": tuple(sorted(labels))}) if len(labels) > 1 else None


def _size(path: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    files = [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
