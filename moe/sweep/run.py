"""A sweep from its file to its table: every point from every seed, finished ones taken as they are.

A point itself is `moe.sweep.trials`', the table `moe.sweep.summary`'s, the pictures `moe.sweep.charts`'.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from experts.atomic_io import os_errors_as_faults, write_json
from experts.errors import Fault
from moe.console import info
from moe.data.writers import open_writer
from moe.extras import check_extra
from moe.sweep.charts import draw_charts
from moe.sweep.grid import SweepPlan, Trial, Values, read_plan, format_value
from moe.sweep.search import run_search, completed_values
from moe.sweep.summary import flatten_row, summarise
from moe.sweep.trials import TrialResult, run_trial, is_finished, selection_score, trial_workspace

RESULTS, TABLE, SUMMARY = "results.jsonl", "sweep.csv", "sweep.json"


@dataclass
class _Sweep:
    """A sweep under way."""

    plan: SweepPlan
    out: Path
    total: int
    points: dict[str, Trial] = field(default_factory=dict)
    results: dict[tuple[str, int], TrialResult] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def do(self, point: Trial) -> float | None:
        """A point from every seed; its mean quality on validation rows, None where training failed."""
        self.points[point.key] = point
        found = [self._seed(point, seed) for seed in self.plan.seeds_of(point)]
        good = [selection_score(one["validation"]) for one in found if one is not None]
        return float(np.mean(good)) if len(good) == len(found) else None

    def _seed(self, point: Trial, seed: int) -> TrialResult | None:
        if (point.key, seed) in self.results:  # a search may draw a point twice
            return self.results[point.key, seed]
        work = trial_workspace(self.plan, point, seed, self.out)
        known = is_finished(work)
        info(
            f"{self._place()}: {format_value(point.values)}, seed {seed}{': finished before, kept' if known else self._left()}"
        )
        try:
            result = run_trial(self.plan, point, seed, self.out)
        except Fault as fault:
            info(f"failed: {fault}")
            self.failed[f"{point.key}/seed-{seed}"] = str(fault)
            return None
        self.results[point.key, seed] = result
        self.seconds += [] if known else [result["seconds"]]
        self._write_results()
        return result

    def _place(self) -> str:
        return f"{len(self.results) + len(self.failed) + 1} of {self.total}"

    def _left(self) -> str:
        """About how long the rest takes, once one was trained."""
        if not self.seconds:
            return ""
        rest = self.total - len(self.results) - len(self.failed)
        seconds = rest * float(np.mean(self.seconds))
        return f"; about {seconds:.0f} s left" if seconds < 120 else f"; about {seconds / 60:.0f} min left"

    def _write_results(self) -> None:
        with open_writer(self.out / RESULTS) as writer:
            for one in self.results.values():
                writer.write(one)


def run_sweep(path: Path, out: Path | None = None, sets: Sequence[str] = (), over: Sequence[str] = ()) -> dict[str, Any]:
    """Train and measure every point of a sweep file; write its results, its table and its charts.

    Args:
        path: a sweep file, or a run's config with `over`.
        out: the sweep's folder; `runs/sweeps/NAME` by default. What is finished there is not done again.
        sets: `key=value`, laid over every point.
        over: `key=v1,v2`, see `moe.sweep.grid.read_plan`.

    Returns:
        what `moe.sweep.summary.summarise` gives, and `folder`, `charts`, `failed`.

    Raises:
        Fault: before any weight is loaded, with every fault of the file and of its points' configs; or when no point
            could be trained.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    check_extra("report")  # the charts are drawn last
    plan = read_plan(path, sets, over)
    out = out or Path("runs") / "sweeps" / plan.name
    points = plan.points(plan.corners() if plan.settings.search else plan.grid())
    with os_errors_as_faults(out):
        out.mkdir(parents=True, exist_ok=True)
    done = _search(plan, out) if plan.settings.search else _grid(plan, out, points)
    if not done.results:
        raise Fault("a point that can be trained", next(iter(done.failed.values()), "none"), "mend it and call again")
    return _finish(done)


def _grid(plan: SweepPlan, out: Path, points: Sequence[Trial]) -> _Sweep:
    done = _Sweep(plan, out, sum(len(plan.seeds_of(point)) for point in points))
    for point in points:
        done.do(point)
    return done


def _search(plan: SweepPlan, out: Path) -> _Sweep:
    assert plan.settings.search is not None
    done = _Sweep(plan, out, plan.settings.search.trials * max(1, len(plan.settings.seeds)))
    before: list[Values] = completed_values(plan, out)
    for values in before:
        done.do(plan.point(values))
    run_search(plan, out, lambda values: done.do(plan.point(values)))
    return done


def _finish(done: _Sweep) -> dict[str, Any]:
    content = summarise(done.plan, list(done.points.values()), list(done.results.values()))
    content |= {"failed": done.failed, "folder": str(done.out)}
    with open_writer(done.out / TABLE) as writer:
        for row in content["points"]:
            writer.write(flatten_row(row))
    content["charts"] = [str(chart) for chart in draw_charts(done.plan, content, done.out)]
    write_json(done.out / SUMMARY, content)
    return content
