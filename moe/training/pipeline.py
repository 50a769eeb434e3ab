"""All steps of a run one after the other, and the table that sets the mixture beside its baselines.

Each step can be called alone through `moe.training.steps`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import write_json
from moe import distributed
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.stages import MERGED
from moe.console import info
from moe.evaluation.baselines import BASELINES, baseline_reports
from moe.evaluation.evaluate import evaluate, write_evaluation
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows
from moe.report.terminal import answers_table, comparison_table, routing_table
from moe.runs.best import CANDIDATES, best_model
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts, train_domain, train_router, train_shared

SUMMARY = "summary.json"
Figures = dict[str, dict[str, dict[str, Any]]]


def run_all(work: Workspace, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train every expert, merge, train the router, and judge everything on the test rows.

    Returns:
        `figures` by model and task, `routing`, `example_predictions`, `verdict`, `folder`; also in `summary.json`.
    """
    _train_experts(work, overwrite, resume)
    info(verdict := _join(work, overwrite, resume))
    return distributed.broadcast_from_main(lambda: _summary(work, verdict))


def train_all(work: Workspace) -> Path:
    """The same without the comparison, for rows that hold no test.

    Returns:
        the best mixture's folder; where there is one expert alone and so nothing to route, the expert's.
    """
    experts = _train_experts(work)
    if len(experts) == 1:
        return experts[0]
    _join(work)
    return best_model(work.out)


def _train_experts(work: Workspace, overwrite: bool = False, resume: bool = False) -> list[Path]:
    if work.run.shared:
        train_shared(work, overwrite, resume)
    return [folder for domain in work.run.domains for folder in train_domain(work, domain, overwrite, resume)]


def _join(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    if not (resume and (work.out / MERGED).is_dir()):
        merge_experts(work, overwrite=overwrite)
    return train_router(work, overwrite, resume)


def _summary(work: Workspace, verdict: str) -> dict[str, Any]:
    summary = compare_with_baselines(work) | {"verdict": verdict, "folder": str(work.out)}
    write_json(work.out / SUMMARY, summary)
    return summary


def compare_with_baselines(work: Workspace) -> dict[str, Any]:
    """The mixture beside its baselines on the test rows, its routing, and three predictions."""
    space, train, test = work.run.label_space(), work.rows("train"), work.rows("test")
    figures: Figures = {name: _short(baseline_reports(train, test, space, name)) for name in BASELINES}
    figures["own expert"] = _own_experts(work)
    for name in CANDIDATES:
        model, card = read_mixture(work.out / name)
        report, judged = evaluate(model, test, card.template, card.backbone_settings.max_length)
        figures[name] = _short(report["tasks"])
        write_evaluation(work.out / "evaluation" / name, report, judged)
        if work.out / name == best_model(work.out):
            predictor = Predictor(model, card.template, card.backbone_settings.max_length)
            chosen = {"best": name, "routing": report["routing"], "predictions": example_predictions(work, predictor)}
    return {"figures": figures} | chosen


def _own_experts(work: Workspace) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for domain in work.run.domain_list():
        model, run = load_single_expert(work.expert_folder(domain.expert_names[0]))
        report, _ = evaluate(model, work.rows("test", [domain.name]), run.template, run.backbone.max_length)
        found |= _short(report["tasks"])
    return found


def _short(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    names = [f"{name}{end}" for name in ("accuracy", "macro_f1") for end in ("", "_interval")]
    return {task: {name: one[name] for name in names} for task, one in tasks.items()}


def example_predictions(work: Workspace, predictor: Predictor, count: int = 3) -> list[dict[str, Any]]:
    """The first test rows, domain by domain, answered as a user gets them."""
    domains = list(work.run.domains)
    rows = []
    for i in range(count):
        test = work.rows("test", [domains[i % len(domains)]])
        rows.append({"text": test[(i // len(domains)) % len(test)]["text"]})
    return list(predict_rows(rows, predictor))


def summary_view(summary: Mapping[str, Any]) -> RenderableType:
    """The table at the end of `moe run`."""
    return Group(
        comparison_table(
            "test rows: the mixture beside its baselines, ± half of the 95 % interval", summary["figures"]
        ),
        Text(summary["verdict"]),
        routing_table(summary["routing"]),
        answers_table(summary["predictions"], f"three test texts through {summary['best']}"),
        Text(f"run folder: {Path(summary['folder'])}"),
    )
