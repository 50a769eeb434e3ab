"""An ablation from a finished run to its table: every row judged on the run's test rows, beside the full mixture.

Which rows there are is `moe.ablation.variants`', how they are shown `moe.ablation.view`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datasets import Dataset

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.ablation.retrain import FOLDER, retrain
from moe.ablation.variants import FULL, InferenceVariant, RetrainedVariant, Variant, inference_variants, select_variants, retrained_variants
from moe.ablation.view import draw_chart
from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences
from moe.checkpoints.mixture import read_card, read_mixture
from moe.checkpoints.mixture_card import MixtureCard
from moe.console import info
from moe.evaluation.test_sets import load_evaluation_rows
from moe.evaluation.evaluate import evaluate, predictions_by_task
from moe.export.selection import adapter_update, merged_expert_spec
from moe.extras import check_extra
from moe.model.mixture import Mixture
from moe.qa.evaluate import EvalSettings, answer_questions, load_run_questions, qa_predictions_by_task, qa_report
from moe.qa.scoring import EvalQuestion
from moe.runs.best import RESULT as VERDICT
from moe.runs.best import default_model, best_model
from moe.runs.workspace import Workspace
from moe.training.lm_dataset import LMCorpora
from moe.training.stage import TrainingData

RESULT, CHART = "ablation.json", "ablation.png"
PredictionsByTask = dict[str, TaskPredictions]
VariantResult = tuple[dict[str, Any], PredictionsByTask]


def list_variants(work: Workspace, model: Path | None = None) -> list[Variant]:
    """Every row that a run can have; no weight is loaded.

    Raises:
        Fault: when the run has no mixture, or the folder is none.
    """
    card = read_card(model or _own_model(work))
    roles: dict[str, list[str]] = {}
    for domain in card.domains:
        roles.setdefault(domain.role, []).extend(domain.experts)
    rows = inference_variants(card.routed, card.shared, card.language, roles)
    return [*rows, *([] if card.language else retrained_variants(work.run))]


def _own_model(work: Workspace) -> Path:
    return best_model(work.out) if work.run.language is None else default_model(work.out)


def ablate(work: Workspace, model: Path | None = None, only: Sequence[str] = (), again: bool = False) -> dict[str, Any]:
    """Judge the rows of a run and write `ablation/ablation.json` and its chart.

    Args:
        model: a mixture's folder, the run's best by default.
        only: the rows to do; all by default.
        again: train the rows that need it; else only those are done that need none.

    Returns:
        `model`, `texts`, and `rows`: `name`, `kind`, `says`, `tasks` and `mean` (accuracy and macro-F1), and, but for
        the full mixture's, `difference` from it: `accuracy` and `macro_f1`, each with a 95 % interval; all in [−1, 1].
        Of a language model also `perplexity` on each domain's held-out text; what the run has no data for is left out.

    Raises:
        Fault: when there is no mixture, a row is unknown, or training goes wrong.
        Interrupted: on Ctrl-C in training, after a checkpoint.
    """
    check_extra("report")  # the charts are drawn last
    folder = model or _own_model(work)
    rows = select_variants(list_variants(work, folder), only, again)
    if again and model is None and not (work.out / VERDICT).is_file():
        missing = "one whose router is not trained to its end"
        raise Fault(
            f"a finished run at {work.out} beside retrained rows", missing, "run moe train-router --resume first"
        )
    mixture, card = read_mixture(folder)
    if card.language:
        content = ablate_language_model(work, mixture, card.template, rows)
        return _written(work, content | {"model": str(folder)})
    texts = load_evaluation_rows(work, mixture)
    answered = [row for row in rows if isinstance(row, InferenceVariant)]
    found = [_answer(mixture, card, texts, row, f"{i} of {len(rows)}") for i, row in enumerate(answered, 1)]
    del mixture
    for i, row in enumerate((one for one in rows if isinstance(one, RetrainedVariant)), len(answered) + 1):
        info(f"{i} of {len(rows)}: {row.name}: {row.says}, trained from {row.start}")
        other, its_card = read_mixture(retrain(work, row))
        found.append(_judge(other, its_card, texts, InferenceVariant(row.name, row.says), "retrained"))
    rows_found = [with_difference(*one, *found[0]) for one in found]
    return _written(work, {"model": str(folder), "texts": len(texts), "rows": rows_found})


def _written(work: Workspace, content: dict[str, Any]) -> dict[str, Any]:
    content["chart"] = str(draw_chart(content, work.out / FOLDER / CHART))
    write_json(work.out / FOLDER / RESULT, content)
    return content


def _answer(mixture: Mixture, card: MixtureCard, texts: Dataset, row: InferenceVariant, place: str) -> VariantResult:
    info(f"{place}: {row.name}: {row.says}")
    with apply_variant(mixture, row):
        return _judge(mixture, card, texts, row, "answered")


def _judge(mixture: Mixture, card: MixtureCard, texts: Dataset, row: InferenceVariant, kind: str) -> VariantResult:
    """A row's figures, and what it said of every labelled text."""
    length = card.backbone_settings.max_length
    report, judged = evaluate(mixture, texts, card.template, length, row.routing, row.pin, quiet=False)
    if not report["tasks"]:
        raise Fault("labelled test rows", f"{len(texts)} without a label", "give the run's test split labels")
    short = {task: {name: one[name] for name in ("accuracy", "macro_f1")} for task, one in report["tasks"].items()}
    mean = {name: report["mean"][name] for name in ("accuracy", "macro_f1")}
    said = predictions_by_task([one for one in judged if one.true is not None], mixture.labels)
    return {"name": row.name, "kind": kind, "says": row.says, "tasks": short, "mean": mean}, said


@contextmanager
def apply_variant(mixture: Mixture, row: InferenceVariant) -> Iterator[None]:
    """Let a mixture answer as a row says while it lasts.

    A merged row keeps equal gates for heads that are each expert's own; in the layers the merged update stands alone.
    """
    with mixture.ablated(row.without, row.alike):
        if row.merge is None:
            yield
            return
        with mixture.bank.override_adapter(adapter_update(mixture, merged_expert_spec(mixture, row.merge, None))):
            yield


def with_difference(row: dict[str, Any], said: PredictionsByTask, full: dict[str, Any], said_full: PredictionsByTask) -> dict[str, Any]:
    """A row with its difference from the full mixture, paired by text; macro-F1 over tasks that have classes."""
    if row["name"] == FULL or not said:
        return row
    accuracy = _difference(said, said_full, list(said_full))["accuracy"]
    classed = [task for task, one in said_full.items() if one.classes > 1]
    f1 = _difference(said, said_full, classed)["macro_f1"] if classed else accuracy
    found = {"accuracy": accuracy, "macro_f1": f1}
    ends = {f"{name}_interval": one.bounds for name, one in found.items()}
    return row | {"difference": {name: one.value for name, one in found.items()} | ends}


def _difference(said: PredictionsByTask, said_full: PredictionsByTask, tasks: list[str]) -> dict[str, Interval]:
    return bootstrap_differences([said[task] for task in tasks], [said_full[task] for task in tasks])


def ablate_language_model(work: Workspace, mixture: Mixture, template: str, rows: Sequence[Variant]) -> dict[str, Any]:
    """`texts` and `rows` of the ablation, as `moe.ablation.run.ablate` tells them.

    Raises:
        Fault: when the run has neither questions nor corpora, or their files are bad.
    """
    asked = load_run_questions(work) if any(work.run.questions_of(name) for name in work.run.domains) else []
    corpora = all(one.corpus for one in work.run.domains.values())
    if not asked and not corpora:
        raise Fault("questions or corpora to measure on", "neither in the config", "give the domains some")
    held_out = LMCorpora(work, mixture).routed_data() if corpora else None
    found: list[VariantResult] = []
    answered = [row for row in rows if isinstance(row, InferenceVariant)]
    for i, row in enumerate(answered, 1):
        info(f"{i} of {len(answered)}: {row.name}: {row.says}")
        with apply_variant(mixture, row):
            found.append(_row(mixture, template, row, asked, held_out))
    return {"texts": len(asked), "rows": [with_difference(*one, *found[0]) for one in found]}


def _row(mixture: Mixture, template: str, row: InferenceVariant, asked: Sequence[EvalQuestion], held_out: TrainingData | None) -> VariantResult:
    told: dict[str, Any] = {"name": row.name, "kind": "answered", "says": row.says, "tasks": {}, "mean": None}
    if held_out is not None and row.routing == "soft" and not row.pin:
        told["perplexity"] = _named(held_out.evaluate())
    if not asked:
        return told, {}
    sitting = EvalSettings(hard=row.routing == "hard", pin=row.pin)
    marked = answer_questions(mixture, template, asked, sitting, quiet=False)
    report = qa_report(marked, sitting)
    tasks = {task: _short(one) for task, one in report["tasks"].items()}
    mean = {"accuracy": report["mean"]["accuracy"]}
    mean["macro_f1"] = report["mean"].get("macro_f1", mean["accuracy"])
    return told | {"tasks": tasks, "mean": mean}, qa_predictions_by_task(marked)


def _short(one: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy and macro-F1; of free answers, which have no classes, right and wrong are all there is."""
    return {"accuracy": one["accuracy"], "macro_f1": one.get("macro_f1", one["accuracy"])}


def _named(figures: Mapping[str, float]) -> dict[str, float]:
    return {key.removeprefix("perplexity_"): figures[key] for key in figures if key.startswith("perplexity_")}
