"""Ablation of a finished run: evaluates every variant on the run's test rows and compares it with the full mixture."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from datasets import Dataset

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.ablation.retrain import train_variant
from moe.ablation.variants import (
    FULL,
    InferenceVariant,
    RetrainedVariant,
    Variant,
    inference_variants,
    retrained_variants,
    select_variants,
)
from moe.ablation.view import draw_chart
from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences
from moe.checkpoints.mixture import read_card, read_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.console import info
from moe.evaluation.evaluate import evaluate, predictions_by_task
from moe.evaluation.perplexity import evaluate_perplexities
from moe.evaluation.test_sets import load_evaluation_rows
from moe.export.selection import adapter_update, merged_expert_spec
from moe.extras import check_extra
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.qa.evaluate import (
    EvalSettings,
    answer_questions,
    load_run_questions,
    qa_predictions_by_task,
    qa_report,
)
from moe.qa.scoring import AnswerMetrics, EvalQuestion, MeanAnswerMetrics
from moe.results.ablation import AblationReport, VariantDifference, VariantMetrics, VariantRow
from moe.results.metrics import LabelMetrics, MeanMetrics
from moe.runs.layout import ABLATION, ABLATION_CHART, ABLATION_RESULT, RESULT
from moe.runs.locking import writes_run
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.language.lm_dataset import LMCorpora

PredictionsByTask = dict[str, TaskPredictions]
VariantResult = tuple[VariantRow, PredictionsByTask]
"""Row of the report, and the predictions of all labelled texts by task."""


def list_variants(work: Workspace, model: Path | None = None) -> list[Variant]:
    """Return all variants of a run; loads no weights.

    Raises:
        Fault: if the run has no mixture, or `model` is not the folder of one.
    """
    card = read_card(resolve(model, run=work.out).folder)
    roles: dict[str, list[str]] = {}
    for domain in card.domains:
        roles.setdefault(domain.role, []).extend(domain.experts)
    variants = inference_variants(card.routed, card.shared, card.language, roles)
    return [*variants, *([] if card.language else retrained_variants(work.run))]


@writes_run
def ablate(
    work: Workspace, model: Path | None = None, only: Sequence[str] = (), retrain: bool = False
) -> AblationReport:
    """Evaluate the variants of a run and write `ablation/ablation.json` and its chart.

    Args:
        model: folder of a mixture; the run's best by default.
        only: names of variants; all by default.
        retrain: include the variants that need training.

    Raises:
        Fault: if there is no mixture, a variant is unknown, or training fails.
        Interrupted: on Ctrl-C during training, after a checkpoint.
    """
    check_extra("report")  # the chart is drawn last
    folder = resolve(model, run=work.out).folder
    variants = select_variants(list_variants(work, folder), only, retrain)
    if retrain and model is None and not (work.out / RESULT).is_file():
        raise Fault(
            f"a finished run at {work.out} to compare retrained variants with",
            "one whose router is not fully trained",
            "run moe train-router --resume first",
        )
    mixture, card = read_mixture(folder)
    if card.language:
        rows, questions = ablate_language_model(work, mixture, card.template, variants)
        return _write(work, folder, questions, rows)
    texts = load_evaluation_rows(work, mixture)
    results: list[VariantResult] = []
    for variant in (variant for variant in variants if isinstance(variant, InferenceVariant)):
        _print_progress(variant, len(results) + 1, len(variants))
        with mode_of_variant(mixture, variant) as mode:
            results.append(_evaluate_variant(mixture, card, texts, variant, "answered", mode))
    del mixture
    for retrained in (variant for variant in variants if isinstance(variant, RetrainedVariant)):
        _print_progress(retrained, len(results) + 1, len(variants), f", trained from {retrained.start}")
        other, its_card = read_mixture(train_variant(work, retrained))
        plain = InferenceVariant(retrained.name, retrained.description)
        results.append(_evaluate_variant(other, its_card, texts, plain, "retrained", other.mode))
    return _write(work, folder, len(texts), _with_differences(results))


def _print_progress(variant: Variant, number: int, total: int, note: str = "") -> None:
    info(f"{number} of {total}: {variant.name}: {variant.description}{note}")


def _write(work: Workspace, model: Path, texts: int, rows: list[VariantRow]) -> AblationReport:
    chart = draw_chart(rows, work.out / ABLATION / ABLATION_CHART)
    report = AblationReport(model=str(model), texts=texts, rows=rows, chart=str(chart))
    write_json(work.out / ABLATION / ABLATION_RESULT, report)
    return report


def _evaluate_variant(
    mixture: Mixture,
    card: MixtureCard,
    texts: Dataset,
    variant: InferenceVariant,
    kind: str,
    mode: RoutingMode,
) -> VariantResult:
    length = card.backbone_settings.resolved_length
    report, rows = evaluate(
        mixture, texts, card.template, length, routing=variant.routing, pin=variant.pin, quiet=False, mode=mode
    )
    if report.mean is None:
        scored = ", ".join(report.scores)
        if scored and not mixture.labels.heads:
            remedy = "compare mixtures with moe compare, which has the metrics of scores"
            raise Fault("a task with labels to ablate", f"tasks with a score alone, {scored}", remedy)
        raise Fault("labelled test rows", f"{len(texts)} without a label", "give the run's test split labels")
    row = VariantRow(
        name=variant.name,
        kind=kind,
        description=variant.description,
        tasks={task: _selected(its) for task, its in report.tasks.items()},
        mean=_selected(report.mean),
    )
    return row, predictions_by_task([row for row in rows if row.true is not None], mixture.labels)


def _selected(metrics: LabelMetrics | MeanMetrics) -> VariantMetrics:
    return VariantMetrics(accuracy=metrics.accuracy, macro_f1=metrics.macro_f1)


@contextmanager
def mode_of_variant(mixture: Mixture, variant: InferenceVariant) -> Iterator[RoutingMode]:
    """Yield the mode in which a mixture routes as a variant defines; soft or hard routing is left to the caller.

    With `merge`, the merged adapter replaces the routed experts in the layers; heads that belong to single experts are
    mixed with uniform gates.
    """
    mode = replace(mixture.mode, without=tuple(variant.without), uniform_gates=variant.uniform_gates)
    if variant.merge is None:
        yield mode
        return
    merged = adapter_update(mixture, merged_expert_spec(mixture, variant.merge, None))
    with mixture.bank.replacement_adapter(merged) as name:
        yield replace(mode, replacement=name)


def _with_differences(results: Sequence[VariantResult]) -> list[VariantRow]:
    """Return the rows, each with its difference from the first result, which is the full mixture."""
    _, full = results[0]
    return [with_difference(row, predictions, full) for row, predictions in results]


def with_difference(row: VariantRow, predictions: PredictionsByTask, full: PredictionsByTask) -> VariantRow:
    """Return a row with its difference from the full mixture, paired by text; macro-F1 over tasks with classes."""
    if row.name == FULL or not predictions:
        return row
    accuracy = _difference(predictions, full, list(full))["accuracy"]
    class_tasks = [task for task, of_task in full.items() if of_task.classes > 1]
    macro_f1 = _difference(predictions, full, class_tasks)["macro_f1"] if class_tasks else accuracy
    difference = VariantDifference(
        accuracy=accuracy.value,
        macro_f1=macro_f1.value,
        accuracy_interval=(accuracy.low, accuracy.high),
        macro_f1_interval=(macro_f1.low, macro_f1.high),
    )
    return row.model_copy(update={"difference": difference})


def _difference(predictions: PredictionsByTask, full: PredictionsByTask, tasks: list[str]) -> dict[str, Interval]:
    return bootstrap_differences([predictions[task] for task in tasks], [full[task] for task in tasks])


def ablate_language_model(
    work: Workspace, mixture: Mixture, template: str, variants: Sequence[Variant]
) -> tuple[list[VariantRow], int]:
    """Evaluate the variants of a language model.

    Returns:
        the rows of the variants, and the number of questions.

    Raises:
        Fault: if the run has neither questions nor corpora, or their files cannot be read.
    """
    questions = load_run_questions(work) if any(work.run.questions_of(name) for name in work.run.domains) else []
    corpora = all(domain.corpus for domain in work.run.domains.values())
    if not questions and not corpora:
        raise Fault("questions or corpora to evaluate on", "neither in the config", "add some to the domains")
    documents = LMCorpora(work, mixture)
    held_out = documents.held_out_documents() if corpora else {}
    collate = documents.collator(packed=False)
    results: list[VariantResult] = []
    selected = [variant for variant in variants if isinstance(variant, InferenceVariant)]
    for variant in selected:
        _print_progress(variant, len(results) + 1, len(selected))
        with mode_of_variant(mixture, variant) as mode:
            row, answers = _evaluate_lm_variant(mixture, template, variant, questions, mode)
            if held_out and variant.routing == "soft" and not variant.pin:
                perplexities = _perplexities(evaluate_perplexities(mixture, held_out, collate, mode))
                row = row.model_copy(update={"perplexity": perplexities})
            results.append((row, answers))
    return _with_differences(results), len(questions)


def _evaluate_lm_variant(
    mixture: Mixture,
    template: str,
    variant: InferenceVariant,
    questions: Sequence[EvalQuestion],
    mode: RoutingMode,
) -> VariantResult:
    row = VariantRow(name=variant.name, kind="answered", description=variant.description, tasks={}, mean=None)
    if not questions:
        return row, {}
    settings = EvalSettings(hard=variant.routing == "hard", pin=variant.pin)
    answers = answer_questions(mixture, template, questions, settings, quiet=False, mode=mode)
    report = qa_report(answers, settings)
    tasks = {task: _accuracy_and_f1(metrics) for task, metrics in report.tasks.items()}
    row = row.model_copy(update={"tasks": tasks, "mean": _accuracy_and_f1(report.mean)})
    return row, qa_predictions_by_task(answers)


def _perplexities(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return the perplexity of each domain by its name."""
    prefix = "perplexity_"
    return {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}


def _accuracy_and_f1(metrics: AnswerMetrics | MeanAnswerMetrics) -> VariantMetrics:
    """Return accuracy and macro-F1; free answers have no classes, so their accuracy stands for both."""
    macro_f1 = metrics.accuracy if metrics.macro_f1 is None else metrics.macro_f1
    return VariantMetrics(accuracy=metrics.accuracy, macro_f1=macro_f1)
