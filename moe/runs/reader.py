"""Reading of a run's folder: logs of its stages, which of them are finished, seed, result, summary and evaluations."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.config.stages import EXPERT, JOINT, SHARED, WARMUP
from moe.runs.best import CANDIDATES, RESULT
from moe.runs.training_log import LOG, PARQUET, Trajectory, read_trajectory

SUMMARY, METRICS = "summary.json", "metrics.json"


@dataclass(frozen=True)
class RunLogs:
    """Logs and results read from a run folder.

    Args:
        folder: folder of the run.
        label: name of the run in tables and figures.
        stages: training log of every stage that has one, in the order in which stages run.
        finished: stages whose output was written.
        experts: names in the order of the gates' columns.
        seed: seed in the resolved config; None if no finished step has one.
        result: `result.json`, or empty.
        summary: `summary.json`, or empty.
        evaluations: `evaluation/MODEL/metrics.json` by model.
    """

    folder: Path
    label: str
    stages: dict[str, Trajectory]
    finished: frozenset[str]
    experts: tuple[str, ...]
    seed: int | None
    result: dict[str, Any]
    summary: dict[str, Any]
    evaluations: dict[str, dict[str, Any]]


def read_run(folder: Path, label: str | None = None) -> RunLogs:
    """Read a run folder.

    Args:
        label: name of the run in tables and figures; the folder's name by default.

    Raises:
        Fault: if it is not the folder of a run, or one of its files cannot be read.
    """
    log_folders = {path.parent.relative_to(folder / "logs").as_posix(): path.parent for path in _logs(folder)}
    if not log_folders and not any((folder / name).is_file() for name in (RESULT, SUMMARY)):
        raise _not_a_run(folder)
    experts = _experts(folder)
    ordered = _in_run_order(log_folders, experts)
    stages = {name: log for name in ordered if (log := read_trajectory(log_folders[name]))}
    return RunLogs(
        folder=folder,
        label=label or folder.resolve().name,
        stages=stages,
        finished=frozenset(name for name in stages if _is_finished(folder, name)),
        experts=experts,
        seed=_seed(folder),
        result=_read_object(folder / RESULT),
        summary=_read_object(folder / SUMMARY),
        evaluations={path.parent.name: _read_object(path) for path in sorted(folder.glob(f"evaluation/*/{METRICS}"))},
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
        yield from sorted((folder / "logs").rglob(name))


def _not_a_run(folder: Path) -> Fault:
    parents = folder.resolve().parents[:3]
    run = next((path for path in parents if (path / "logs").is_dir() and any(_logs(path))), None)
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
    outputs = (folder / "logs" / name / PARQUET, folder / name, folder / EXPERT.folder / name)
    return any(path.exists() for path in outputs)


def _experts(folder: Path) -> tuple[str, ...]:
    cards = [folder / name / "mixture.json" for name in CANDIDATES]
    card = next((_read_object(path) for path in cards if path.is_file()), {})
    return tuple(name for domain in card.get("domains", []) for name in domain.get("experts", []))


def _seed(folder: Path) -> int | None:
    for path in sorted(folder.glob("*/config.yaml")) + sorted(folder.glob(f"{EXPERT.folder}/*/config.yaml")):
        try:
            seed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("seed")
        except (OSError, yaml.YAMLError, AttributeError):
            continue  # a report does not need it
        if isinstance(seed, int):
            return seed
    return None


def _read_object(path: Path) -> dict[str, Any]:
    """Read the JSON object in a file; return an empty one if there is no file."""
    content = read_json(path) if path.is_file() else {}
    if not isinstance(content, dict):
        raise Fault(
            f"a JSON object at {path}", f"a {type(content).__name__}", "write the folder again, or remove the file"
        )
    return content
