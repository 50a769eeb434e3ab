"""One point of a sweep from one seed: trained as far as the sweep asks, measured on validation and test rows.

Each has a folder of its own, in which it goes on where it was stopped. Which points there are is `moe.sweep.grid`'s.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from experts.atomic_io import read_json, write_json
from moe.checkpoints.expert import SHARED_NAME, load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.stages import MERGED
from moe.evaluation.evaluate import evaluate
from moe.model.mixture import Mixture
from moe.profiling import Cost, measure_cost
from moe.runs.best import best_model
from moe.runs.workspace import Workspace
from moe.sweep.grid import SweepPlan, Trial, short_hash
from moe.training.steps import merge_experts, train_domain, train_router, train_shared

MEASURED, SPENT = "measured.json", "spent.json"
LABEL_FIGURES = ("accuracy", "macro_f1", "weighted_precision", "weighted_recall", "weighted_f1")
SCORE_FIGURES = ("mse", "mae", "rmse", "r2")
TrialResult = dict[str, Any]


def trial_workspace(plan: SweepPlan, point: Trial, seed: int, out: Path) -> Workspace:
    """The folder of a point and seed; points whose data settings agree share their prepared rows."""
    data = point.run.model_dump(mode="json", include={"data", "sample", "domains"})
    run = point.run.model_copy(update={"seed": seed})
    folder = next((out / "points").glob(f"*-{point.digest}"), out / "points" / point.key)
    return Workspace(run, folder / f"seed-{seed}", out / "rows" / short_hash(data))


def is_finished(work: Workspace) -> bool:
    """Whether the point was measured before from this seed."""
    return (work.out / MEASURED).is_file()


def run_trial(plan: SweepPlan, point: Trial, seed: int, out: Path) -> TrialResult:
    """Train and measure a point from one seed, or take what is there.

    Returns:
        `point`, `settings`, `seed`, `validation` and `test` (figures, and `tasks` with theirs), `parameters` that
        learned, `seconds` of training, `peak_mib` while training, `memory_of` (whose memory it is).

    Raises:
        Fault: when its data or its training go wrong.
        Interrupted: on Ctrl-C, after a checkpoint.
    """
    work = trial_workspace(plan, point, seed, out)
    said: TrialResult = {"point": point.key, "settings": point.values, "seed": seed}
    if is_finished(work):
        return read_json(work.out / MEASURED) | said
    until, domains = plan.settings.until, plan.domains_of(point.run)
    for name in domains if until == "expert" else point.run.domains:
        work.prepared(name)  # reading data is no training, so it is done before the clock runs
    with _paid(work.out / SPENT):
        _train(work, until, domains)
    shutil.rmtree(work.out / "cache", ignore_errors=True)
    result = said | evaluate_trial(work, until, domains) | read_json(work.out / SPENT)
    write_json(work.out / MEASURED, result)
    return result


@contextmanager
def _paid(path: Path) -> Iterator[None]:
    """Add what the block costs to a file, so that a point that is stopped and gone on with costs the sum."""
    before: TrialResult = read_json(path) if path.is_file() else {"seconds": 0.0, "peak_mib": None}
    cost = Cost()
    try:
        with measure_cost(cost):
            yield
    finally:
        peaks = [one for one in (before["peak_mib"], cost.peak_mib) if one is not None]
        sums = {"seconds": before["seconds"] + cost.seconds, "peak_mib": max(peaks, default=None)}
        write_json(path, sums | {"memory_of": cost.memory_of})


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


def evaluate_trial(work: Workspace, until: str, domains: Sequence[str]) -> TrialResult:
    """Figures on validation and test rows, means over tasks; and the weights that learned."""
    tasks: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
    scores: dict[str, dict[str, Any]] = {"validation": {}, "test": {}}
    parameters = 0
    for model, template, length, names in _models(work, until, domains):
        parameters += count_trained_parameters(model)
        for split in tasks:
            if len(rows := work.rows(split, names)):
                report, _ = evaluate(model, rows, template, length)
                tasks[split] |= report["tasks"]
                scores[split] |= report["scores"]
    return {split: average_figures(tasks[split], scores[split]) for split in tasks} | {"parameters": parameters}


def _models(work: Workspace, until: str, domains: Sequence[str]) -> Iterator[tuple[Mixture, str, int, list[str]]]:
    """What is measured, with its template, its length and the domains whose rows it answers."""
    if until in ("merge", "router"):
        mixture, card = read_mixture(work.out / MERGED if until == "merge" else best_model(work.out))
        yield mixture, card.template, card.backbone_settings.max_length, list(work.run.domains)
        return
    lone = {work.domains()[name].expert_names[0]: [name] for name in domains}
    for name, answers in lone.items() if until == "expert" else [(SHARED_NAME, list(work.run.domains))]:
        model, run = load_single_expert(work.expert_folder(name))
        yield model, run.template, run.backbone.max_length, answers


def count_trained_parameters(model: Mixture) -> int:
    """Weights that are trained: of the experts (a lone one's own), the heads and the router."""
    names = [model.active_expert] if model.active_expert else list(model.bank.adapters)
    experts = sum(one.numel() for name in names for one in model.bank.adapter_parameters(name).values())
    router = () if model.gate is None else (one for one in model.gate.parameters() if one.requires_grad)
    return experts + sum(one.numel() for one in (*model.heads.parameters(), *router))


def average_figures(tasks: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Means over tasks of the figures of labels and of scores, and each task's own under `tasks`."""
    names = dict.fromkeys((*tasks, *scores))
    own = {
        task: {name: tasks[task][name] for name in LABEL_FIGURES if task in tasks}
        | {name: scores[task][name] for name in SCORE_FIGURES if name in scores.get(task, {})}
        for task in names
    }
    means = {
        name: float(np.mean([one[name] for one in own.values() if name in one]))
        for name in (*LABEL_FIGURES, *SCORE_FIGURES)
        if any(name in one for one in own.values())
    }
    return means | {"tasks": own}


def selection_score(split: Mapping[str, Any]) -> float:
    """What a point is judged by: macro-F1, or −MSE where no row has a label."""
    return float(split["macro_f1"]) if "macro_f1" in split else -float(split.get("mse", np.inf))
