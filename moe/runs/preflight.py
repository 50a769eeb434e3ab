"""The preflight check of a config: whether this machine has its files, trackers, backbone and trained expert."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from experts.errors import Fault
from moe.config.messages import ConfigFault
from moe.config.run import RunSettings, load_run
from moe.data.ingest import row_faults
from moe.data.schema import TaskSettings
from moe.model.backbone import AUTO, length_limit, read_backbone_config
from moe.runs.shared_init import shared_init_errors
from moe.runs.text_lengths import describe_files
from moe.trackers import missing_trackers

_CHECKED_ROWS = 100_000


def check_config(path: Path, sets: Sequence[str] = (), *, reads_texts: bool = True) -> str:
    """Check a config, the files that it names, its backbone and its `shared.init`, without loading the backbone.

    Args:
        sets: overrides of settings, `key=value` each.
        reads_texts: read all files, to check their rows and to count the texts that are truncated.

    Returns:
        a summary of the config in one line, and a line for each domain with texts that are truncated.

    Raises:
        Fault: if anything is wrong, with all errors at once.
    """
    run = load_run(path, sets)
    errors = _corpus_errors(run) if run.language else _file_errors(run)
    errors += [
        f"track: {name} is not installed; run pip install {name}, or remove it" for name in missing_trackers(run.track)
    ]
    if backbone_errors := _backbone_errors(run):
        errors += backbone_errors
    else:
        errors += shared_init_errors(run)
    texts: list[str] = []
    if reads_texts and not errors:
        try:
            errors += _row_errors(run)
            texts = [] if errors else describe_files(run)
        except Fault as fault:
            errors.append(str(fault))
    if errors:
        raise ConfigFault(str(path), errors)
    experts = [name for domain in run.domain_list() for name in domain.expert_names]
    heads = "a language-model head" if run.language else f"{len(run.label_space().heads)} class head(s)"
    targets = [f"{task} (column {its.columns.target})" for task, its in _all_tasks(run) if its.has_target]
    with_target = f"; tasks with a target: {', '.join(targets)}" if targets else ""
    return "\n".join([f"{path}: valid; experts {', '.join(experts)}; {heads}{with_target}", *texts])


def _all_tasks(run: RunSettings) -> Iterator[tuple[str, TaskSettings]]:
    for domain in run.domains:
        yield from run.rows_of(domain).items()


def _file_errors(run: RunSettings) -> list[str]:
    """Errors about missing files of labelled rows."""
    tasks = [(domain, task) for domain in run.domains for task in run.tasks_of(domain).values()]
    errors = [
        f"domains.{domain}: no file at {run.data.path(task.file)}; set data.folder or domains.{domain}.file"
        for domain, task in tasks
        if task.file is not None and not run.data.path(task.file).exists()
    ]
    errors += [
        f"domains.{domain}.unlabelled: no file at {run.data.path(file)}; set data.folder or fix the name"
        for domain, settings in run.domains.items()
        for file in settings.unlabelled
        if not run.data.path(file).exists()
    ]
    return errors + [
        f"domains.{domain}: no file, and the config has no sample; set domains.{domain}.file"
        for domain, task in tasks
        if task.file is None and run.sample is None
    ]


def _row_errors(run: RunSettings) -> list[str]:
    """Errors about the rows of all labelled files, for which training would stop; at most 100,000 rows of each."""
    errors = []
    for domain in run.domains:
        for task, its in run.rows_of(domain).items():
            if its.file is not None:
                inspect = f"`moe data inspect {its.file} --domain {domain}`"
                name = f"domains.{domain}" + (f".tasks.{task}" if task != domain else "")
                faults = row_faults(run.data.path(its.file), its, run.data, inspect, _CHECKED_ROWS)
                errors += [f"{name}: {fault}" for fault in faults]
    return errors


def _corpus_errors(run: RunSettings) -> list[str]:
    """Errors about missing corpora and files of questions of a language model's run."""
    assert run.language is not None
    files_by_key = {f"domains.{name}.corpus": domain.corpus for name, domain in run.domains.items()}
    errors = [
        f"{key}: no file; set it to one or more files of plain text" for key, files in files_by_key.items() if not files
    ]
    files_by_key |= {
        f"domains.{domain}.tasks.{name}": (str(task.file),)
        for domain in run.domains
        for name, task in run.questions_of(domain).items()
    }
    return errors + [
        f"{key}: no file at {run.data.path(file)}; set data.folder or fix the name"
        for key, files in (files_by_key | {"language.general": run.language.general}).items()
        for file in files
        if not run.data.path(file).exists()
    ]


def _backbone_errors(run: RunSettings) -> list[str]:
    try:
        config, limit = read_backbone_config(run.backbone), length_limit(run.backbone)
    except Fault as fault:
        return [f"backbone.name: {fault}"]
    errors, depth = [], config.num_hidden_layers
    if run.backbone.trunk_depth >= depth:
        errors.append(
            f"backbone.trunk_depth is {run.backbone.trunk_depth}, but the backbone has {depth} layers: lower it"
        )
    if limit is not None and run.backbone.max_length != AUTO and run.backbone.resolved_length > limit:
        errors.append(
            f"backbone.max_length is {run.backbone.max_length}, but the backbone reads at most {limit} tokens: lower it"
        )
    return errors
