"""One trial of a sweep from one seed: training as far as the sweep requires, then evaluation.

Each has its own folder, in which it resumes.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from experts.atomic_io import read_json, write_json
from moe.checkpoints.expert import SHARED_NAME, load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.stages import MERGED
from moe.evaluation.evaluate import evaluate
from moe.model.mixture import Mixture
from moe.profiling import Cost, measure_cost
from moe.results.base import read_result
from moe.results.metrics import LabelMetrics, ScoreMetrics
from moe.runs.best import best_model
from moe.runs.layout import CACHE
from moe.runs.workspace import Workspace
from moe.sweep.grid import SweepPlan, Trial, short_hash
from moe.sweep.results import Split, SplitFigures, TrialCost, TrialFigures, TrialResult
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

RESULT, COST = "measured.json", "spent.json"
POINTS = "points"
"""Folder of the trials in the folder of a sweep."""
SPLITS: tuple[Split, ...] = ("validation", "test")


def trial_workspace(plan: SweepPlan, trial: Trial, seed: int, out: Path) -> Workspace:
    """Return the workspace of a trial and seed; trials with the same data settings share their prepared rows."""
    data = trial.run.model_dump(mode="json", include={"data", "sample", "domains"})
    run = trial.run.model_copy(update={"seed": seed})
    folder = next((out / POINTS).glob(f"*-{trial.digest}"), out / POINTS / trial.key)
    return Workspace(run, folder / f"seed-{seed}", out / "rows" / short_hash(data))


def is_finished(work: Workspace) -> bool:
    """Whether the trial was evaluated from this seed."""
    return (work.out / RESULT).is_file()


def run_trial(plan: SweepPlan, trial: Trial, work: Workspace) -> TrialResult:
    """Train and evaluate a trial from one seed, or read its finished result.

    Args:
        plan: the sweep.
        trial: the trial.
        work: its workspace, see `trial_workspace`.

    Raises:
        Fault: if reading the data or training fails.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    seed = work.run.seed
    if (finished := read_result(work.out / RESULT, TrialResult)) is not None:
        return finished.model_copy(update={"point": trial.key, "settings": trial.values, "seed": seed})
    until, domains = plan.settings.until, plan.trained_domains(trial.run)
    for name in domains if until == "expert" else trial.run.domains:
        work.prepared(name)  # before the clock starts: reading data is not training
    with _record_cost(work.out / COST):
        _train(work, until, domains)
    shutil.rmtree(work.out / CACHE, ignore_errors=True)
    figures, parameters = evaluate_trial(work, until, domains)
    cost = TrialCost.model_validate(read_json(work.out / COST))
    result = TrialResult(
        point=trial.key,
        settings=trial.values,
        seed=seed,
        validation=figures["validation"],
        test=figures["test"],
        parameters=parameters,
        seconds=cost.seconds,
        peak_mib=cost.peak_mib,
        memory_of=cost.memory_of,
    )
    write_json(work.out / RESULT, result)
    return result


@contextmanager
def _record_cost(path: Path) -> Iterator[None]:
    """Add the cost of the block to a file, so that an interrupted and resumed trial reports the total."""
    previous = read_result(path, TrialCost) or TrialCost(seconds=0.0, peak_mib=None)
    cost = Cost()
    try:
        with measure_cost(cost):
            yield
    finally:
        peaks = [peak for peak in (previous.peak_mib, cost.peak_mib) if peak is not None]
        seconds, peak_mib = previous.seconds + cost.seconds, max(peaks, default=None)
        write_json(path, TrialCost(seconds=seconds, peak_mib=peak_mib, memory_of=cost.memory_of))


def _train(work: Workspace, until: str, domains: Sequence[str]) -> None:
    if work.run.shared:
        train_shared(work, resume=True)
    if until == "shared":
        return
    for name in domains:
        train_domain(work, name, resume=True)
    if until == "expert":
        return
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    if until == "router":
        train_router(work, resume=True)


def evaluate_trial(work: Workspace, until: str, domains: Sequence[str]) -> tuple[dict[Split, SplitFigures], int]:
    """Return metrics on validation and test rows, averaged over tasks, and the number of trained parameters."""
    tasks: dict[Split, dict[str, LabelMetrics]] = {split: {} for split in SPLITS}
    scores: dict[Split, dict[str, ScoreMetrics]] = {split: {} for split in SPLITS}
    parameters = 0
    for model, template, length, names in trained_models(work, until, domains):
        parameters += count_trained_parameters(model, work.frozen_experts)
        for split in SPLITS:
            if len(rows := work.rows(split, names)):
                report, _ = evaluate(model, rows, template, length)
                tasks[split] |= report.tasks
                scores[split] |= report.scores
    return {split: average_metrics(tasks[split], scores[split]) for split in SPLITS}, parameters


def trained_models(
    work: Workspace, until: str, domains: Sequence[str]
) -> Iterator[tuple[Mixture, str, int, list[str]]]:
    """Yield the models to evaluate, each with its template, its maximum length and the domains of its rows."""
    if until in ("merge", "router"):
        mixture, card = read_mixture(work.out / MERGED if until == "merge" else best_model(work.out))
        yield mixture, card.template, card.backbone_settings.resolved_length, list(work.run.domains)
        return
    by_domain = {work.domains()[name].expert_names[0]: [name] for name in domains}
    for expert, names in by_domain.items() if until == "expert" else [(SHARED_NAME, list(work.run.domains))]:
        model, run = load_single_expert(work.expert_folder(expert))
        yield model, run.template, run.backbone.resolved_length, names


def count_trained_parameters(model: Mixture, frozen: Sequence[str] = ()) -> int:
    """Count the trained parameters: of the experts (of a single expert only its own), the heads and the router.

    Args:
        frozen: experts that were not trained.
    """
    names = [model.active_expert] if model.active_expert else list(model.bank.adapters)
    names = [name for name in names if name not in frozen]
    experts = sum(parameter.numel() for name in names for parameter in model.bank.adapter_parameters(name).values())
    router = () if model.gate is None else (weight for weight in model.gate.parameters() if weight.requires_grad)
    others: int = sum(weight.numel() for weight in (*model.heads.parameters(), *router))
    return experts + others


def average_metrics(tasks: Mapping[str, LabelMetrics], scores: Mapping[str, ScoreMetrics]) -> SplitFigures:
    """Return the means over tasks of label metrics and score metrics, and each task's own."""
    by_task = {
        task: TrialFigures.of_task(tasks.get(task), scores.get(task)) for task in dict.fromkeys((*tasks, *scores))
    }
    values: dict[str, list[float]] = {}
    for figures in by_task.values():
        for name, value in figures.known():
            values.setdefault(name, []).append(value)
    means = {name: float(np.mean(of_tasks)) for name, of_tasks in values.items()}
    return SplitFigures.model_validate(means | {"tasks": by_task})


def selection_score(figures: TrialFigures) -> float:
    """Return the score by which trials are compared: macro-F1, or −MSE if no row has a label."""
    if figures.macro_f1 is not None:
        return figures.macro_f1
    return -np.inf if figures.mse is None else -figures.mse
