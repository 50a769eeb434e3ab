"""Reading of a run's folder: logs of its stages, which of them are finished, seed, result, summary and evaluations."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.atomic_io import read_json
from experts.domain import Domain
from experts.errors import Fault
from experts.yaml_io import read_yaml
from moe.checkpoints.file_names import CARD
from moe.config.stages import EXPERT, JOINT, SHARED, WARMUP
from moe.results.base import parse_result, read_result
from moe.results.evaluation import EvaluationReport, Levels, TaskLevels
from moe.results.run import BestMixture, RunSummary
from moe.runs.layout import LEVELS, LOGS, METRICS, MIXTURES, RESULT, SUMMARY
from moe.runs.training_log import LOG, PARQUET, Trajectory, read_trajectory


@dataclass(frozen=True)
class RunDomain:
    """A domain of a run: its name, labels by task, and experts, in the order of the config."""

    name: str
    tasks: dict[str, tuple[str, ...]]
    experts: tuple[str, ...]


@dataclass(frozen=True)
class RunLogs:
    """Logs and results read from a run folder.

    Args:
        folder: folder of the run.
        label: name of the run in tables and figures.
        stages: training log of every stage that has one, in the order in which stages run.
        finished: stages whose output was written.
        domains: domains in the order of the config, with tasks and experts; empty if no finished step names them.
        levels: validation metrics of majority class and TF-IDF by task, from `levels.json`, or empty.
        seed: seed in the resolved config; None if no finished step has one.
        result: `result.json`, or None.
        summary: `summary.json`, or None.
        evaluations: `evaluation/MODEL/metrics.json` by model.
    """

    folder: Path
    label: str
    stages: dict[str, Trajectory]
    finished: frozenset[str]
    domains: tuple[RunDomain, ...]
    levels: Levels
    seed: int | None
    result: BestMixture | None
    summary: RunSummary | None
    evaluations: dict[str, EvaluationReport]

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the experts in the order of the gates' columns."""
        return tuple(name for domain in self.domains for name in domain.experts)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Labels by task, in the order of the config."""
        return {task: labels for domain in self.domains for task, labels in domain.tasks.items()}

    def in_order(self, tasks: Iterable[str]) -> list[str]:
        """Sort tasks in the order of the config; others follow as they are."""
        known = list(self.tasks)
        return sorted(tasks, key=lambda task: known.index(task) if task in known else len(known))


def read_run(folder: Path, label: str | None = None) -> RunLogs:
    """Read a run folder.

    Args:
        label: name of the run in tables and figures; the folder's name by default.

    Raises:
        Fault: if it is not the folder of a run, or one of its files cannot be read.
    """
    log_folders = {path.parent.relative_to(folder / LOGS).as_posix(): path.parent for path in _logs(folder)}
    if not log_folders and not any((folder / name).is_file() for name in (RESULT, SUMMARY)):
        raise _not_a_run(folder)
    domains = _domains(folder)
    ordered = _in_run_order(log_folders, [name for domain in domains for name in domain.experts])
    stages = {name: log for name in ordered if (log := read_trajectory(log_folders[name]))}
    return RunLogs(
        folder=folder,
        label=label or folder.resolve().name,
        stages=stages,
        finished=frozenset(name for name in stages if _is_finished(folder, name)),
        domains=domains,
        levels=_levels(folder),
        seed=_seed(folder),
        result=read_result(folder / RESULT, BestMixture),
        summary=read_result(folder / SUMMARY, RunSummary),
        evaluations=dict(_evaluations(folder)),
    )


def run_labels(run: Path, other: Path) -> tuple[str, str]:
    """Return labels of two runs to compare: the names of their folders, or the full paths if the names are equal.

    Raises:
        Fault: if both are the same folder.
    """
    if run.resolve() == other.resolve():
        raise Fault("another run to compare with", f"the same folder, {other}", "use the folder of a different run")
    first, second = run.resolve().name, other.resolve().name
    return (first, second) if first != second else (str(run), str(other))


def _logs(folder: Path) -> Iterator[Path]:
    for name in (LOG, PARQUET):
        yield from sorted((folder / LOGS).rglob(name))


def _not_a_run(folder: Path) -> Fault:
    parents = folder.resolve().parents[:3]
    run = next((path for path in parents if (path / LOGS).is_dir() and any(_logs(path))), None)
    return Fault(
        f"a run folder, with logs/STEP/{LOG} in it, at {folder}",
        "a folder without logs" if folder.is_dir() else "a file" if folder.exists() else "no such folder",
        f"use the run's folder, {run}" if run else "use the folder that training wrote, such as runs/demo",
    )


def _in_run_order(names: Iterable[str], experts: Sequence[str]) -> list[str]:
    """Sort stages in the order in which they run: shared expert, experts as in the card, others, router stages."""
    first = [Path(SHARED.folder).name, *experts]
    last = [WARMUP.folder, JOINT.folder]

    def position(name: str) -> tuple[int, int, str]:
        if name in last:
            return 2, last.index(name), name
        return (0, first.index(name), name) if name in first else (1, 0, name)

    return sorted(names, key=position)


def _is_finished(folder: Path, name: str) -> bool:
    outputs = (folder / LOGS / name / PARQUET, folder / name, folder / EXPERT.folder / name)
    return any(path.exists() for path in outputs)


def _domains(folder: Path) -> tuple[RunDomain, ...]:
    """Read the domains from a mixture's card, else from the config of a finished step."""
    cards = [folder / name / CARD for name in MIXTURES]
    card = next((_read_object(path) for path in cards if path.is_file()), None)
    if card is None:
        return _domains_of_config(next(_configs(folder), {}))
    return tuple(
        RunDomain(
            name=domain["name"],
            tasks={task: tuple(labels) for task, labels in domain.get("tasks", {}).items()},
            experts=tuple(domain.get("experts", [])),
        )
        for domain in card.get("domains", [])
    )


def _domains_of_config(config: Mapping[str, Any]) -> tuple[RunDomain, ...]:
    domains = config.get("domains")
    result = []
    for name, settings in domains.items() if isinstance(domains, dict) else ():
        own = settings if isinstance(settings, dict) else {}
        tasks = own.get("tasks") or {name: own}
        labels = {task: tuple((its or {}).get("labels") or ()) for task, its in tasks.items()}
        experts = Domain(name, experts=own.get("experts") or 1).expert_names
        result.append(RunDomain(name, {task: its for task, its in labels.items() if its}, experts))
    return tuple(result)


def _configs(folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the resolved configs of finished steps that can be read; a report does not need them."""
    for path in sorted(folder.glob("*/config.yaml")) + sorted(folder.glob(f"{EXPERT.folder}/*/config.yaml")):
        try:
            config = read_yaml(path)
        except Fault:
            continue
        yield config


def _seed(folder: Path) -> int | None:
    return next((config["seed"] for config in _configs(folder) if isinstance(config.get("seed"), int)), None)


def _levels(folder: Path) -> Levels:
    content = _read_object(folder / LEVELS)
    return {task: parse_result(level, folder / LEVELS, TaskLevels) for task, level in content.items()}


def _evaluations(folder: Path) -> Iterator[tuple[str, EvaluationReport]]:
    """Yield the evaluations of models, in the order in which a run creates them."""
    paths = {path.parent.name: path for path in sorted(folder.glob(f"evaluation/*/{METRICS}"))}
    known = [name for name in MIXTURES if name in paths]
    for name in [*known, *(name for name in paths if name not in known)]:
        if (report := read_result(paths[name], EvaluationReport)) is not None:
            yield name, report


def _read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; return an empty one if there is no file."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise Fault(
            f"a JSON object at {path}", f"a {type(content).__name__}", "write the folder again, or remove the file"
        )
    return content
