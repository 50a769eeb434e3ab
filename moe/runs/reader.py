"""A run's folder as training left it: every stage's log, who is finished, the seed, verdict, summary and evaluations.

The figures made of it are `moe.report.training`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
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
    """A run folder as read.

    Args:
        folder: the run's.
        label: what it is called in tables and pictures.
        stages: the trajectory of every stage that has a log, in the order in which they run.
        finished: the stages that wrote what they are for.
        experts: names in the order of the gates' columns.
        seed: of the resolved config; None where no finished step holds one.
        result: `result.json`, or empty.
        summary: `summary.json`, or empty.
        measured: `evaluation/MODEL/metrics.json` by model.
    """

    folder: Path
    label: str
    stages: dict[str, Trajectory]
    finished: frozenset[str]
    experts: tuple[str, ...]
    seed: int | None
    result: dict[str, Any]
    summary: dict[str, Any]
    measured: dict[str, dict[str, Any]]


def read_run(folder: Path, label: str | None = None) -> RunLogs:
    """Read what a run left behind.

    Raises:
        Fault: when the folder is no run's, or one of its files cannot be read.
    """
    places = {path.parent.relative_to(folder / "logs").as_posix(): path.parent for path in _logs(folder)}
    if not places and not any((folder / name).is_file() for name in (RESULT, SUMMARY)):
        _refuse(folder)
    experts = _experts(folder)
    stages = {name: found for name in _ordered(places, experts) if (found := read_trajectory(places[name]))}
    return RunLogs(
        folder,
        label or folder.resolve().name,
        stages,
        frozenset(name for name in stages if _is_finished(folder, name)),
        experts,
        _seed(folder),
        _json(folder / RESULT),
        _json(folder / SUMMARY),
        {path.parent.name: _json(path) for path in sorted(folder.glob(f"evaluation/*/{METRICS}"))},
    )


def run_labels(run: Path, other: Path) -> tuple[str, str]:
    """What two runs are called beside each other: by their folders' names, by the whole paths where those agree.

    Raises:
        Fault: when they are one and the same.
    """
    if run.resolve() == other.resolve():
        raise Fault("another run to lay beside", f"the same folder, {other}", "name the folder of a different run")
    first, second = run.resolve().name, other.resolve().name
    return (first, second) if first != second else (str(run), str(other))


def _logs(folder: Path) -> Iterator[Path]:
    for name in (LOG, PARQUET):
        yield from sorted((folder / "logs").rglob(name))


def _refuse(folder: Path) -> None:
    above = next((one for one in folder.resolve().parents[:3] if (one / "logs").is_dir() and any(_logs(one))), None)
    raise Fault(
        f"a run folder, with logs/STEP/{LOG} in it, at {folder}",
        "a folder without logs" if folder.is_dir() else "a file" if folder.exists() else "no such folder",
        f"name the run's own folder, {above}" if above else "name the folder that training wrote, such as runs/demo",
    )


def _ordered(names: Mapping[str, Path], experts: Sequence[str]) -> list[str]:
    """Shared expert, experts by the card, others, then the router's stages: the order in which they run."""
    places = [Path(SHARED.folder).name, *experts]
    last = [WARMUP.folder, JOINT.folder]

    def place(name: str) -> tuple[int, int, str]:
        if name in last:
            return 2, last.index(name), name
        return (0, places.index(name), name) if name in places else (1, 0, name)

    return sorted(names, key=place)


def _is_finished(folder: Path, name: str) -> bool:
    return any(one.exists() for one in (folder / "logs" / name / PARQUET, folder / name, folder / EXPERT.folder / name))


def _experts(folder: Path) -> tuple[str, ...]:
    cards = [folder / name / "mixture.json" for name in CANDIDATES]
    card = next((_json(path) for path in cards if path.is_file()), {})
    return tuple(name for domain in card.get("domains", []) for name in domain.get("experts", []))


def _seed(folder: Path) -> int | None:
    for path in sorted(folder.glob("*/config.yaml")) + sorted(folder.glob(f"{EXPERT.folder}/*/config.yaml")):
        try:
            seed = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("seed")
        except (OSError, yaml.YAMLError, AttributeError):
            continue  # a report can do without
        if isinstance(seed, int):
            return seed
    return None


def _json(path: Path) -> dict[str, Any]:
    """The object in a file; an empty one where there is no file."""
    found = read_json(path) if path.is_file() else {}
    if not isinstance(found, dict):
        raise Fault(f"a JSON object at {path}", f"a {type(found).__name__}", "write the folder again, or take it away")
    return found
