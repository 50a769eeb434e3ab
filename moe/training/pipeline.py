"""All steps of a run in sequence, and the comparison of the mixture with its baselines."""

from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import write_json
from experts.json_io import json_object
from moe import distributed
from moe.console import info
from moe.distill.label import label_texts
from moe.evaluation.data_warnings import print_data_warnings
from moe.evaluation.results import mean_figures
from moe.evaluation.run_results import evaluate_run
from moe.evaluation.verdict import compare_results, compare_scores, conclusions
from moe.inference.rows import Row
from moe.inference.stream import predict_rows
from moe.inference.torch_predictor import TorchPredictor
from moe.report.terminal import answers_table, comparison_table, routing_table
from moe.results.run import RunSummary
from moe.runs.best import best_model
from moe.runs.layout import SUMMARY
from moe.runs.locking import writes_run
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts, train_router

PLAIN_SENTENCES = (
    "Profit rose 20% in the third quarter.",
    "The annual meeting takes place on Tuesday.",
    "I am a bagholder in $GME and it keeps falling",
)
"""Plain sentences to predict after a run on the made-up sample, whose own texts are of no interest to users."""


@writes_run
def run_all(
    work: Workspace, overwrite: bool = False, resume: bool = False, pooled: bool = True, label: bool = True
) -> RunSummary:
    """Train every expert, merge them, train the router, and evaluate everything on the test rows.

    Args:
        pooled: also train one LoRA on all domains pooled, to compare the mixture with.
        label: in a run with teachers, have them label texts first.

    Returns:
        the summary, also written to `summary.json`.
    """
    if label and work.run.distill is not None:
        label_texts(work)
    _train_experts(work, overwrite, resume)
    info(verdict := _merge_and_train_router(work, overwrite, resume))
    if pooled and len(work.run.domains) > 1:
        train_pooled(work, overwrite, resume)
    summary = distributed.broadcast_from_main(lambda: json_object(_write_summary(work, verdict, pooled)))
    return RunSummary.model_validate(summary)


@writes_run
def train_all(work: Workspace, resume: bool = False) -> Path:
    """Run all training steps without the comparison, which needs test rows.

    Args:
        resume: continue a step from its last checkpoint, and keep what is finished.

    Returns:
        folder of the best mixture; if there is a single expert, and so nothing to route, the expert's folder.
    """
    if work.run.distill is not None:
        label_texts(work)
    experts = _train_experts(work, resume=resume)
    if len(experts) == 1:
        return experts[0]
    _merge_and_train_router(work, resume=resume)
    return best_model(work.out)


def _train_experts(work: Workspace, overwrite: bool = False, resume: bool = False) -> list[Path]:
    print_data_warnings(work)
    if work.run.shared:
        train_shared(work, overwrite, resume)
    return [folder for domain in work.run.domains for folder in train_domain(work, domain, overwrite, resume)]


def _merge_and_train_router(work: Workspace, overwrite: bool = False, resume: bool = False) -> str:
    merge_experts(work, overwrite=overwrite, resume=resume)
    return train_router(work, overwrite, resume)


def _write_summary(work: Workspace, verdict: str, pooled: bool) -> RunSummary:
    result = {"verdict": verdict, "folder": str(work.out), "warnings": work.warnings}
    summary = compare_with_baselines(work, pooled).model_copy(update=result)
    write_json(work.out / SUMMARY, summary)
    return summary


def compare_with_baselines(work: Workspace, pooled: bool = True) -> RunSummary:
    """Evaluate all models of the run on the test rows, compare the best mixture with others, and predict a few rows.

    Args:
        pooled: include the pooled LoRA, if there is one.

    Returns:
        the summary, without `verdict`, `folder` and `warnings`.
    """
    results = evaluate_run(work, pooled)
    best = results.models.get(results.best, {})
    differences, scores = (compare(best, results.models) for compare in (compare_results, compare_scores))
    return RunSummary(
        figures={name: {task: its.figures for task, its in result.items()} for name, result in results.models.items()},
        means={name: mean_figures(result) for name, result in results.models.items()},
        best=results.best,
        differences=differences,
        score_differences=scores,
        conclusions=conclusions(results.best, differences, scores),
        routing=results.routing,
        predictions=example_predictions(work, results.predictor),
    )


def example_predictions(work: Workspace, predictor: TorchPredictor, count: int = 3) -> list[Row]:
    """Predictions for the first test rows, domains in turn; for plain sentences if all rows are of the sample."""
    domains = list(work.run.domains)
    if all(task.file is None for domain in domains for task in work.run.tasks_of(domain).values()):
        return list(predict_rows(({"text": text} for text in PLAIN_SENTENCES[:count]), predictor))
    tests = [test for domain in domains if len(test := work.rows("test", [domain]))]
    rows = []
    for i in range(count if tests else 0):
        test = tests[i % len(tests)]
        row = test[(i // len(tests)) % len(test)]
        rows.append({"text": row["text"]} | ({"target": row["target"]} if row["target"] is not None else {}))
    return list(predict_rows(rows, predictor))


def summary_view(summary: RunSummary) -> RenderableType:
    """Comparison, routing and example predictions, as `moe run` prints them."""
    assert summary.routing is not None
    predictions = summary.predictions
    of_sample = [row["text"] for row in predictions] == list(PLAIN_SENTENCES[: len(predictions)])
    title = "three sentences that are not in the sample" if of_sample else "three test texts"
    figures = "test rows: mixture and baselines, ± half of the 95 % interval"
    return Group(
        comparison_table(figures, summary.figures, summary.means),
        Text(summary.verdict),
        *(Text(sentence, style="bold") for sentence in summary.conclusions),
        routing_table(summary.routing),
        answers_table(predictions, f"{title}, predicted by {summary.best}"),
        Text(f"run folder: {Path(summary.folder)}"),
    )
