"""Folds of a sweep: what is measured of each beside its metrics, and their rows for the table and the picture."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from datasets import Dataset

from experts.atomic_io import write_json
from experts.domain import LabelSpace
from moe.data.sampler import subsample_per_domain
from moe.data.splitting.settings import SPLITS, Split
from moe.drift.comparison import ALIKE, FEW, UNLIKE, DriftComparison, DriftTest, compare_features
from moe.drift.fit import MAX_ROWS, MIN_ROWS, extract_features, fit_on_rows
from moe.evaluation.baselines import baseline_results
from moe.inference.torch_predictor import TorchPredictor
from moe.results.base import read_result
from moe.runs.workspace import Workspace
from moe.sweep.grid import SweepPlan, Trial
from moe.sweep.results import FoldMeasures, FoldRow, TrialFigures, TrialSummary
from moe.sweep.summary import format_settings
from moe.sweep.trials import average_metrics, trained_models

FOLD = "fold.json"
"""File of a fold's measures in the folder of a trial and seed."""
ALL = "all"


def measure_fold(plan: SweepPlan, trial: Trial, work: Workspace) -> FoldMeasures:
    """Measure a trained fold, or read what an earlier call has measured.

    Raises:
        Fault: if the file of an earlier call holds something else.
    """
    path = work.out / FOLD
    if (finished := read_result(path, FoldMeasures)) is not None:
        return finished
    until = plan.settings.until
    domains = plan.trained_domains(trial.run) if until == "expert" else list(trial.run.domains)
    rows = {split: work.rows(split, domains) for split in SPLITS}
    space = trial.run.label_space()
    measures = FoldMeasures(
        fold=trial.values[plan.fold_keys[0]],
        periods=_periods(work, domains),
        rows={split: len(rows[split]) for split in SPLITS},
        tfidf=_baseline("tfidf", rows, space),
        majority=_baseline("majority", rows, space),
        drift=dict(_drift(work, until, domains)),
    )
    write_json(path, measures)
    return measures


def _periods(work: Workspace, domains: Sequence[str]) -> dict[str, tuple[str, str]] | None:
    """First and last time of the rows of each split over all tasks; None if none has times."""
    ends: dict[str, tuple[str, str]] = {}
    for prepared in (prepared for name in domains for prepared in work.prepared(name).values()):
        for split, (first, last) in (prepared.report.periods or {}).items():
            before = ends.get(split, (first, last))
            ends[split] = (min(before[0], first), max(before[1], last))
    return ends or None


def _baseline(name: str, rows: Mapping[Split, Dataset], space: LabelSpace) -> TrialFigures:
    """Test metrics of a baseline, averaged over tasks."""
    results = baseline_results(rows["train"], rows["test"], space, name, rows["validation"])
    labels = {task: result.metrics for task, result in results.items() if result.metrics is not None}
    scores = {task: result.scores for task, result in results.items() if result.scores is not None}
    return TrialFigures.model_validate(dict(average_metrics(labels, scores).known()))


def _drift(work: Workspace, until: str, domains: Sequence[str]) -> Iterator[tuple[str, DriftComparison]]:
    """Yield the comparison of test with validation rows for every trained model, by its domain."""
    for model, template, length, names in trained_models(work, until, domains):
        train, validation, test = (
            subsample_per_domain(work.rows(split, names), MAX_ROWS, work.run.seed) for split in SPLITS
        )
        name = names[0] if len(names) == 1 else ALL
        if min(len(train), len(validation)) < MIN_ROWS:
            yield name, DriftComparison(len(test), None, None, None, verdict=FEW, measures={})
            continue
        predictor = TorchPredictor(model, template, length, states=True)
        space = fit_on_rows(predictor, train, list(dict.fromkeys(train["domain"])))
        held_out, later = (
            extract_features(predictor, space, list(part["text"]), title)
            for part, title in ((validation, "validation rows"), (test, "test rows"))
        )
        yield name, compare_features(later, held_out, list(model.bank.routed_experts))


def fold_rows(plan: SweepPlan, points: Sequence[TrialSummary], measures: Mapping[str, FoldMeasures]) -> list[FoldRow]:
    """Return the rows of all folds that were trained, in the order of the trials.

    Args:
        plan: with folds.
        points: trials with results.
        measures: of the first seed of a trial, by its key.
    """
    others = [key for key in plan.varying_keys() if key not in plan.fold_keys]
    return [
        FoldRow(
            point=point.point,
            settings={key: point.settings[key] for key in others},
            seeds=len(point.seeds),
            test=point.test,
            measures=measures[point.point],
        )
        for point in points
        if point.point in measures
    ]


def strongest_drift(measures: FoldMeasures, name: str) -> DriftTest | None:
    """Return the test of a measure of drift, of the model for which it is the clearest; None if there is none."""
    tests = [comparison.measures[name] for comparison in measures.drift.values() if name in comparison.measures]
    return min(tests, key=lambda test: (test.p, -test.value), default=None)


def drift_verdict(measures: FoldMeasures) -> str:
    """Return whether the test rows are unlike the validation rows for any of the models."""
    verdicts = [comparison.verdict for comparison in measures.drift.values()]
    return UNLIKE if UNLIKE in verdicts else ALIKE if ALIKE in verdicts else FEW


def group_folds(rows: Sequence[FoldRow]) -> dict[str, list[FoldRow]]:
    """Group the folds that differ in nothing but the fold, by their other settings in words."""
    groups: dict[str, list[FoldRow]] = {}
    for row in rows:
        groups.setdefault(format_settings(row.settings), []).append(row)
    return groups


def mean_over_folds(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; None without any."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
