"""All steps of a run in sequence, and the comparison of the mixture with its baselines."""

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
from moe.evaluation.baselines import BASELINES, TEXT_BASELINE, baseline_reports
from moe.evaluation.data_warnings import print_data_warnings
from moe.evaluation.evaluate import evaluate, write_evaluation
from moe.inference.stream import predict_rows
from moe.inference.torch_predictor import TorchPredictor
from moe.report.terminal import answers_table, comparison_table, routing_table
from moe.runs.best import CANDIDATES, best_model
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

SUMMARY = "summary.json"
PLAIN_SENTENCES = (
    "Profit rose 20% in the third quarter.",
    "The annual meeting takes place on Tuesday.",
    "I am a bagholder in $GME and it keeps falling",
)
"""Plain sentences to predict after a run on the made-up sample, whose own texts are of no interest to users."""
Figures = dict[str, dict[str, dict[str, Any]]]


def run_all(work: Workspace, overwrite: bool = False, resume: bool = False) -> dict[str, Any]:
    """Train every expert, merge them, train the router, and evaluate everything on the test rows.

    Returns:
        `figures` by model and task, `best`, `routing`, `predictions`, `verdict`, `folder`, `warnings`; also
        written to `summary.json`.
    """
    _train_experts(work, overwrite, resume)
    info(verdict := _merge_and_train_router(work, overwrite, resume))
    return distributed.broadcast_from_main(lambda: _write_summary(work, verdict))


def train_all(work: Workspace) -> Path:
    """Run all training steps without the comparison, which needs test rows.

    Returns:
        folder of the best mixture; if there is a single expert, and so nothing to route, the expert's folder.
    """
    experts = _train_experts(work)
    if len(experts) == 1:
        return experts[0]
    _merge_and_train_router(work)
    return best_model(work.out)


def _train_experts(work: Workspace, overwrite: bool = False, resume: bool = False) -> list[Path]:
    print_data_warnings(work)
    if work.run.shared:
        train_shared(work, overwrite, resume)
    return [folder for domain in work.run.domains for folder in train_domain(work, domain, overwrite, resume)]


def _merge_and_train_router(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    if not (resume and (work.out / MERGED).is_dir()):
        merge_experts(work, overwrite=overwrite)
    return train_router(work, overwrite, resume)


def _write_summary(work: Workspace, verdict: str) -> dict[str, Any]:
    summary = compare_with_baselines(work) | {"verdict": verdict, "folder": str(work.out), "warnings": work.warnings}
    write_json(work.out / SUMMARY, summary)
    return summary


def compare_with_baselines(work: Workspace) -> dict[str, Any]:
    """Evaluate mixtures and baselines on the test rows, and predict a few of them.

    Returns:
        `figures` by model and task, the `best` mixture, its `routing`, and example `predictions`.
    """
    space, train, test = work.run.label_space(), work.rows("train"), work.rows("test")
    figures: Figures = {name: _select_figures(baseline_reports(train, test, space, name)) for name in BASELINES}
    if space.target_tasks:
        figures[TEXT_BASELINE] = _select_figures(baseline_reports(train, test, space, TEXT_BASELINE))
    figures["own expert"] = _single_expert_figures(work)
    for name in CANDIDATES:
        model, card = read_mixture(work.out / name)
        max_length = card.backbone_settings.max_length
        report, rows = evaluate(model, test, card.template, max_length)
        figures[name] = _select_figures(report["tasks"])
        write_evaluation(work.out / "evaluation" / name, report, rows)
        if work.out / name == best_model(work.out):
            predictions = example_predictions(work, TorchPredictor(model, card.template, max_length))
            best = {"best": name, "routing": report["routing"], "predictions": predictions}
    return {"figures": figures} | best


def _single_expert_figures(work: Workspace) -> dict[str, dict[str, Any]]:
    """Figures by task of each domain's first expert, evaluated without the mixture."""
    figures: dict[str, dict[str, Any]] = {}
    for domain in work.run.domain_list():
        model, run = load_single_expert(work.expert_folder(domain.expert_names[0]))
        report, _ = evaluate(model, work.rows("test", [domain.name]), run.template, run.backbone.max_length)
        figures |= _select_figures(report["tasks"])
    return figures


def _select_figures(tasks: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Accuracy and macro-F1 of each task, with their intervals."""
    names = [f"{name}{end}" for name in ("accuracy", "macro_f1") for end in ("", "_interval")]
    return {task: {name: report[name] for name in names} for task, report in tasks.items()}


def example_predictions(work: Workspace, predictor: TorchPredictor, count: int = 3) -> list[dict[str, Any]]:
    """Predictions for the first test rows, domains in turn; for plain sentences if all rows are of the sample."""
    domains = list(work.run.domains)
    if all(task.file is None for domain in domains for task in work.run.tasks_of(domain).values()):
        return list(predict_rows(({"text": text} for text in PLAIN_SENTENCES[:count]), predictor))
    rows = []
    for i in range(count):
        test = work.rows("test", [domains[i % len(domains)]])
        row = test[(i // len(domains)) % len(test)]
        rows.append({"text": row["text"]} | ({"target": row["target"]} if row["target"] is not None else {}))
    return list(predict_rows(rows, predictor))


def summary_view(summary: Mapping[str, Any]) -> RenderableType:
    """Comparison, routing and example predictions, as `moe run` prints them."""
    predictions = summary["predictions"]
    of_sample = [row["text"] for row in predictions] == list(PLAIN_SENTENCES[: len(predictions)])
    title = "three sentences that are not in the sample" if of_sample else "three test texts"
    return Group(
        comparison_table("test rows: mixture and baselines, ± half of the 95 % interval", summary["figures"]),
        Text(summary["verdict"]),
        routing_table(summary["routing"]),
        answers_table(predictions, f"{title}, predicted by {summary['best']}"),
        Text(f"run folder: {Path(summary['folder'])}"),
    )
