"""The training log of one stage: JSON lines while it runs, and a Parquet table with a row per optimizer step."""

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
from experts.json_io import parse_json
from moe.runs.selection_metric import MACRO_F1, SELECTION_METRICS, SelectionMetric

LOG, PARQUET = "log.jsonl", "trajectory.parquet"
LOSSES = ("loss", "language", "sentiment", "classes", "polarity", "domain", "balance")
FIRST_COLUMNS = ("step", "epoch", *LOSSES)
LAST_COLUMNS = ("grad_norm", "learning_rate", "seconds", "memory_mib", "memory_of", "device")
Row = dict[str, float | str]
"""Logged values of one optimizer step by name."""


@dataclass(frozen=True)
class Trajectory:
    """Training log of one stage.

    Args:
        rows: one per optimizer step, sorted by step; values that were not logged are not in the row.
        evaluations: validation metrics with their `step`, sorted by step.
        wall_seconds: duration of the training loop, including evaluations and checkpoints; None if it never ended.
    """

    rows: list[Row]
    evaluations: list[dict[str, float]]
    wall_seconds: float | None = None

    @property
    def names(self) -> list[str]:
        """Names of all logged values: `FIRST_COLUMNS`, then others in order of appearance, then `LAST_COLUMNS`."""
        logged = dict.fromkeys(name for row in self.rows for name in row)
        middle = [name for name in logged if name not in FIRST_COLUMNS + LAST_COLUMNS]
        return [
            *(name for name in FIRST_COLUMNS if name in logged),
            *middle,
            *(name for name in LAST_COLUMNS if name in logged),
        ]

    def values(self, name: str) -> np.ndarray:
        """Return one logged value of every step (steps,), NaN for steps without it."""
        values = [row.get(name) for row in self.rows]
        return np.array([value if isinstance(value, int | float) else math.nan for value in values], dtype=float)

    @property
    def best_evaluation(self) -> dict[str, float] | None:
        """The evaluation whose weights were selected: the best one, the first among equals."""
        return max(self.evaluations, key=self.selection_metric.score, default=None)

    @property
    def selection_metric(self) -> SelectionMetric:
        """The metric that selected the stage's weights."""
        for metric in SELECTION_METRICS:
            if any(metric.name in evaluation for evaluation in self.evaluations):
                return metric
        return MACRO_F1


def read_trajectory(logs: Path) -> Trajectory | None:
    """Read the log of a stage from its log folder; None if there is no log.

    The JSON lines are preferred: they exist while a stage runs and after it was stopped, and only they hold the
    evaluations.

    Raises:
        Fault: if the log cannot be read.
    """
    if (logs / LOG).is_file():
        return _from_lines(_read_lines(logs / LOG))
    if (logs / PARQUET).is_file():
        return Trajectory(_from_parquet(logs / PARQUET), [])
    return None


def log_start(logs: Path, metrics: Mapping[str, float]) -> None:
    """Log the evaluation of the weights that a stage starts with, as step 0; a stage that is resumed has it already."""
    path = logs / LOG
    if not path.is_file():
        logs.mkdir(parents=True, exist_ok=True)
        line = {"step": 0, "epoch": 0.0, **{f"eval_{name}": value for name, value in metrics.items()}}
        path.write_text(json.dumps(line) + "\n", encoding="utf-8")


def write_trajectory(logs: Path) -> Path | None:
    """Write a finished stage's `trajectory.parquet` from its JSON lines, atomically; None if it logged no step."""
    trajectory = read_trajectory(logs)
    if trajectory is None or not trajectory.rows:
        return None
    with atomic_file(logs / PARQUET) as temporary:
        pq.write_table(_table(trajectory), temporary)
    return logs / PARQUET


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield every complete line; the last one may be partly written while a stage runs."""
    try:
        with path.open(encoding="utf-8", errors="replace") as stream:
            for line in stream:
                try:
                    row = parse_json(line, constants=("NaN", "Infinity", "-Infinity"))
                except ValueError:
                    continue
                if isinstance(row, dict) and isinstance(row.get("step"), int):
                    yield row
    except OSError as error:
        raise Fault(
            f"a readable log at {path}", error.strerror or str(error), "fix its permissions, or leave it out"
        ) from error


def _from_lines(lines: Iterator[dict[str, Any]]) -> Trajectory:
    rows: dict[int, Row] = {}
    evaluations: dict[int, dict[str, float]] = {}
    wall: float | None = None
    for line in lines:
        step = line["step"]
        if any(f"eval_{metric.name}" in line for metric in SELECTION_METRICS):
            evaluations[step] = _numbers(line)
        elif "train_runtime" in line:
            wall = (wall or 0.0) + line["train_runtime"]
        elif "loss" in line:
            if rows and step <= next(reversed(rows)):
                _discard_from(rows, evaluations, step)
            rows[step] = {name: value for name, value in line.items() if _is_loggable(value)}
    return Trajectory(list(rows.values()), [evaluations[step] for step in sorted(evaluations)], wall)


def _discard_from(rows: dict[int, Row], evaluations: dict[int, dict[str, float]], step: int) -> None:
    """Discard what was logged from this step on: the stage was resumed from an earlier checkpoint."""
    for by_step in (rows, evaluations):
        for discarded in [logged for logged in by_step if logged >= step]:
            del by_step[discarded]


def _is_loggable(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value))


def _numbers(line: Mapping[str, Any]) -> dict[str, float]:
    return {
        name.removeprefix("eval_"): value
        for name, value in line.items()
        if isinstance(value, int | float) and _is_loggable(value)
    }


def _table(trajectory: Trajectory) -> pa.Table:
    names = list(dict.fromkeys([*FIRST_COLUMNS, *trajectory.names, *LAST_COLUMNS]))
    schema = pa.schema([pa.field(name, _COLUMN_TYPES.get(name, pa.float64())) for name in names])
    return pa.Table.from_pylist([{name: row.get(name) for name in names} for row in trajectory.rows], schema=schema)


_COLUMN_TYPES = {"step": pa.int64(), "memory_of": pa.string(), "device": pa.string()}


def _from_parquet(path: Path) -> list[Row]:
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowInvalid) as error:
        raise Fault(
            f"a complete Parquet file at {path}", str(error), "train the stage again, or remove the file"
        ) from error
    return [{name: value for name, value in row.items() if value is not None} for row in rows]
