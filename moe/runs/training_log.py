"""The trajectory of one training stage: its live log in JSON lines, and one row an optimizer step as Parquet.

What is logged is told by `moe.training.trainer` and `moe.training.objective`; what is drawn of it by
`moe.plots.training`.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experts.atomic_io import atomic_file
from experts.errors import Fault
from moe.runs.selection_metric import SELECTION_METRICS, MACRO_F1, SelectionMetric

LOG, PARQUET = "log.jsonl", "trajectory.parquet"
LOSSES = ("loss", "language", "sentiment", "classes", "polarity", "domain", "balance")
FIRST = ("step", "epoch", *LOSSES)
LAST = ("grad_norm", "learning_rate", "seconds", "memory_mib", "device")
Row = dict[str, Any]


@dataclass(frozen=True)
class Trajectory:
    """What a stage left behind.

    Args:
        rows: one an optimizer step, by step; a figure that a step does not have is not in its row.
        evaluations: validation metrics and their `step`, by step.
        wall_seconds: of the whole loop, evaluations and checkpoints included; None where no part of it ended.
    """

    rows: list[Row]
    evaluations: list[dict[str, float]]
    wall_seconds: float | None = None

    @property
    def names(self) -> list[str]:
        """Every figure that some step has, in the order of `FIRST`, then as they came, then `LAST`."""
        seen = dict.fromkeys(name for row in self.rows for name in row)
        middle = [name for name in seen if name not in FIRST + LAST]
        return [*(n for n in FIRST if n in seen), *middle, *(n for n in LAST if n in seen)]

    def values(self, name: str) -> np.ndarray:
        """One figure of every step (steps,), NaN where a step has none."""
        found = [row.get(name) for row in self.rows]
        return np.array([value if isinstance(value, int | float) else math.nan for value in found], dtype=float)

    @property
    def kept(self) -> dict[str, float] | None:
        """The evaluation whose weights are kept: the best by its goal, the first of equals."""
        return max(self.evaluations, key=self.goal.score, default=None)

    @property
    def goal(self) -> SelectionMetric:
        """What the stage was judged by."""
        return next((goal for goal in SELECTION_METRICS if any(goal.name in one for one in self.evaluations)), MACRO_F1)


def read_trajectory(logs: Path) -> Trajectory | None:
    """What a stage's log folder tells; None where it holds no log.

    The JSON lines are read first: they are there while a stage runs and after it was stopped, and they alone hold the
    evaluations.

    Raises:
        Fault: when the log cannot be read.
    """
    if (logs / LOG).is_file():
        return _of_lines(_lines(logs / LOG))
    if (logs / PARQUET).is_file():
        return Trajectory(_of_parquet(logs / PARQUET), [])
    return None


def write_trajectory(logs: Path) -> Path | None:
    """Write a finished stage's `trajectory.parquet` from its JSON lines, whole; None where it logged no step."""
    found = read_trajectory(logs)
    if found is None or not found.rows:
        return None
    with atomic_file(logs / PARQUET) as temporary:
        pq.write_table(_table(found), temporary)
    return logs / PARQUET


def _lines(path: Path) -> Iterator[Row]:
    """Every line that is whole; the last one may be half-written while a stage runs."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    found = json.loads(line)
                except ValueError:
                    continue
                if isinstance(found, dict) and isinstance(found.get("step"), int):
                    yield found
    except OSError as error:
        raise Fault(
            f"a readable log at {path}", error.strerror or str(error), "mend its rights, or leave it out"
        ) from error


def _of_lines(lines: Iterator[Row]) -> Trajectory:
    rows: dict[int, Row] = {}
    evaluations: dict[int, dict[str, float]] = {}
    wall: float | None = None
    for line in lines:
        step = line["step"]
        if any(f"eval_{goal.name}" in line for goal in SELECTION_METRICS):
            evaluations[step] = _numbers(line)
        elif "train_runtime" in line:
            wall = (wall or 0.0) + line["train_runtime"]
        elif "loss" in line:
            if rows and step <= next(reversed(rows)):
                _rewind(rows, evaluations, step)
            rows[step] = {name: value for name, value in line.items() if _known(value)}
    return Trajectory(list(rows.values()), [evaluations[step] for step in sorted(evaluations)], wall)


def _rewind(rows: dict[int, Row], evaluations: dict[int, dict[str, float]], step: int) -> None:
    """A resumed stage goes back to its checkpoint: what was logged past it belongs to no weights."""
    for known in (rows, evaluations):
        for late in [one for one in known if one >= step]:
            del known[late]


def _known(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): value
        for name, value in line.items()
        if isinstance(value, int | float) and _known(value)
    }


def _table(found: Trajectory) -> pa.Table:
    names = list(dict.fromkeys([*FIRST, *found.names, *LAST]))
    schema = pa.schema([pa.field(name, _KINDS.get(name, pa.float64())) for name in names])
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in found.rows], schema=schema)


_KINDS = {"step": pa.int64(), "device": pa.string()}


def _of_parquet(path: Path) -> list[Row]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise Fault(f"a whole Parquet file at {path}", str(error), "train the stage again, or take it away") from error
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
