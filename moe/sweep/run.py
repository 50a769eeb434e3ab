"""A sweep: runs every trial from every seed, skips finished ones, writes results, table and charts."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from experts.atomic_io import write_json
from experts.errors import Fault
from experts.json_io import json_object
from experts.locks import run_lock
from experts.outputs import check_output_names
from moe.console import info
from moe.data.formats.writers import open_writer
from moe.sweep.charts import draw_charts
from moe.sweep.fold_view import draw_folds, fold_record
from moe.sweep.folds import fold_rows, measure_fold
from moe.sweep.grid import SweepPlan, Trial, Values, format_value, read_plan
from moe.sweep.results import FoldMeasures, SweepSummary, TrialResult
from moe.sweep.search import completed_values, run_search
from moe.sweep.summary import flatten_row, summarise
from moe.sweep.trials import POINTS, is_finished, run_trial, selection_score, trial_workspace

RESULTS, TABLE, SUMMARY = "results.jsonl", "sweep.csv", "sweep.json"
FOLDS, FOLDS_PICTURE = "folds.csv", "folds.png"
"""Files of a sweep's folder, which replace those of an earlier call; other files of these names are refused."""


@dataclass
class _Sweep:
    """State of a sweep in progress."""

    plan: SweepPlan
    out: Path
    total: int
    trials: dict[str, Trial] = field(default_factory=dict)
    results: dict[tuple[str, int], TrialResult] = field(default_factory=dict)
    folds: dict[str, FoldMeasures] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)

    def run(self, trial: Trial) -> float | None:
        """Run a trial from every seed; return its mean validation score, or None if training failed."""
        self.trials[trial.key] = trial
        results = [self._run_seed(trial, seed) for seed in self.plan.seeds_of(trial)]
        scores = [selection_score(result.validation) for result in results if result is not None]
        return float(np.mean(scores)) if len(scores) == len(results) else None

    def _run_seed(self, trial: Trial, seed: int) -> TrialResult | None:
        if (trial.key, seed) in self.results:  # a search may sample the same values again
            return self.results[trial.key, seed]
        work = trial_workspace(self.plan, trial, seed, self.out)
        finished = is_finished(work)
        number = len(self.results) + len(self.failed) + 1
        note = ": finished before, skipped" if finished else self._time_left()
        info(f"{number} of {self.total}: {format_value(trial.values)}, seed {seed}{note}")
        try:
            result = run_trial(self.plan, trial, work)
            if self.plan.fold_keys and trial.key not in self.folds:
                self.folds[trial.key] = measure_fold(self.plan, trial, work)
        except Fault as fault:
            info(f"failed: {fault}")
            self.failed[f"{trial.key}/seed-{seed}"] = str(fault)
            return None
        self.results[trial.key, seed] = result
        self.seconds += [] if finished else [result.seconds]
        self._write_results()
        return result

    def _time_left(self) -> str:
        """Estimate the remaining time from the trials that this call has trained."""
        if not self.seconds:
            return ""
        remaining = self.total - len(self.results) - len(self.failed)
        seconds = remaining * float(np.mean(self.seconds))
        return f"; about {seconds:.0f} s left" if seconds < 120 else f"; about {seconds / 60:.0f} min left"

    def _write_results(self) -> None:
        with open_writer(self.out / RESULTS) as writer:
            for result in self.results.values():
                writer.write(json_object(result))


def run_sweep(
    path: Path,
    out: Path | None = None,
    sets: Sequence[str] = (),
    over: Sequence[str] = (),
    *,
    folds: bool = False,
) -> SweepSummary:
    """Train and evaluate every trial of a sweep file; write its results, its table and its charts.

    Args:
        path: a sweep file, or a run's config with `over` or `folds`.
        out: folder of the sweep; `runs/sweeps/NAME` by default. Trials that are finished there are skipped.
        sets: `key=value` overrides of every trial.
        over: `key=v1,v2`, see `moe.sweep.grid.read_plan`.
        folds: train every fold of the domains that have folds, and measure each beside baselines and for drift.

    Raises:
        Fault: before any weights are loaded, with every error of the file and of its trials' configs; if no trial
            could be trained, if `out` has files of another origin, or another process writes there.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    plan = read_plan(path, sets, over, folds=folds)
    out = out or Path("runs") / "sweeps" / plan.name
    trials = plan.trials(plan.corners() if plan.settings.search else plan.grid())
    with run_lock(out):
        earlier = (out / POINTS).is_dir()
        names = (RESULTS, TABLE, SUMMARY, *((FOLDS, FOLDS_PICTURE) if plan.fold_keys else ()))
        check_output_names(out, names, [path], overwrite=earlier)
        state = _run_search(plan, out) if plan.settings.search else _run_grid(plan, out, trials)
        if not state.results:
            reason = next(iter(state.failed.values()), "none")
            raise Fault("at least one trial that can be trained", reason, "fix the config and run the command again")
        return _write_summary(state)


def _run_grid(plan: SweepPlan, out: Path, trials: Sequence[Trial]) -> _Sweep:
    state = _Sweep(plan, out, sum(len(plan.seeds_of(trial)) for trial in trials))
    for trial in trials:
        state.run(trial)
    return state


def _run_search(plan: SweepPlan, out: Path) -> _Sweep:
    assert plan.settings.search is not None
    state = _Sweep(plan, out, plan.settings.search.trials * max(1, len(plan.settings.seeds)))
    earlier: list[Values] = completed_values(plan, out)
    for values in earlier:
        state.run(plan.trial(values))
    run_search(plan, out, lambda values: state.run(plan.trial(values)))
    return state


def _write_summary(state: _Sweep) -> SweepSummary:
    summary = summarise(state.plan, list(state.trials.values()), list(state.results.values()))
    with open_writer(state.out / TABLE) as writer:
        for row in summary.points:
            writer.write(flatten_row(row))
    charts = draw_charts(state.plan, summary, state.out)
    if rows := fold_rows(state.plan, summary.points, state.folds):
        summary = summary.model_copy(update={"folds": rows})
        with open_writer(state.out / FOLDS) as writer:
            for fold in rows:
                writer.write(fold_record(fold))
        draw_folds(summary, state.out / FOLDS_PICTURE)
        charts.append(state.out / FOLDS_PICTURE)
    more = {"failed": state.failed, "folder": str(state.out), "charts": list(map(str, charts))}
    summary = summary.model_copy(update=more)
    write_json(state.out / SUMMARY, summary)
    return summary
