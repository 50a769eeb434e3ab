"""Evaluation of a mixture per task and domain: routed, as without labels, and with each row's true task."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset

from experts.domain import LabelSpace
from moe.bootstrap import TaskPredictions
from moe.console import info, progress_bar
from moe.evaluation.calibration.conformal import label_set_report
from moe.evaluation.calibration.label_thresholds import choose_thresholds
from moe.evaluation.calibration.temperature import TaskLogits
from moe.evaluation.evaluation_files import write_evaluation, write_per_expert
from moe.evaluation.metrics import classification, concordance, label_metrics, metric_intervals
from moe.evaluation.results import ScoreAnswers, score_metrics
from moe.evaluation.rows import LabelledRow, PredictedRow, iter_chunks, true_label
from moe.evaluation.test_sets import check_no_result, load_evaluation_rows
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.kinds.registry import task_kind
from moe.model.mixture import Mixture
from moe.model.mode import RoutingChoice, RoutingMode
from moe.results.evaluation import EvaluationReport, RoutingReport
from moe.results.metrics import LabelMetrics, MeanMetrics, ScoreMetrics
from moe.runs import layout
from moe.runs.locking import writes_run
from moe.runs.model_ref import resolve
from moe.runs.selection_metric import CCC, MEAN_OF_TASKS
from moe.runs.workspace import Workspace
from router.routing_stats import Usage

ONLY_LABEL = "_only_label"
"""End of the name of a validation metric: the index of the label that is predicted for all rows of a task."""


def evaluate_rows(
    predictor: TorchPredictor, rows: Dataset, pin: bool = False, title: str = "", quiet: bool = True
) -> list[PredictedRow]:
    """Predict every row.

    Args:
        pin: restrict each row to the experts of its true domain.
        title: of the progress bar.
        quiet: show no progress bar.
    """
    evaluated: list[PredictedRow] = []
    with progress_bar(title, len(rows), "text", quiet) as meter:
        for chunk in iter_chunks(rows, predictor.chunk_size):
            pins = [row["domain"] for row in chunk] if pin else None
            targets = [row["target"] for row in chunk]
            scores = predictor.score([row["text"] for row in chunk], pins, targets)
            evaluated += predicted_rows(predictor, scores, chunk)
            meter.advance(len(chunk))
    return evaluated


def predicted_rows(predictor: TorchPredictor, scores: Scores, rows: Sequence[LabelledRow]) -> list[PredictedRow]:
    """Predict rows (N) from their scores."""
    space, targets = predictor.model.labels, [row["target"] for row in rows]
    masked = predictor.to_predictions(scores, [row["task"] for row in rows])
    routed = predictor.to_predictions(scores, predictor.routed_tasks(scores, targets))
    return [
        PredictedRow(row=row, true=true_label(row, space), masked=in_task, routed=in_domain)
        for row, in_task, in_domain in zip(rows, masked, routed, strict=True)
    ]


def validate(model: Mixture, rows: Dataset, template: str, max_length: int) -> dict[str, float]:
    """Validation metrics of a model: `validation_metrics` of its predictions for the rows."""
    return validation_metrics(evaluate_rows(TorchPredictor(model, template, max_length), rows), model)


def validation_metrics(evaluated: Sequence[PredictedRow], model: Mixture) -> dict[str, float]:
    """Validation metrics of a model's predictions.

    The labels of a multi-label task are decided by thresholds that are fitted to the same rows: before a model is
    calibrated, its probabilities order the texts of a rare label, but seldom reach 0.5.

    Returns:
        `accuracy` and `macro_f1`, averaged over tasks, the same for each task as `TASK_…`, for a task whose rows all
        get the same label its index as `TASK_only_label`, and for a model with a router the domain accuracy as
        `routing`. With tasks that have a score alone, `ccc`, averaged over them, and for each `TASK_ccc`; without other
        tasks there are no label metrics, and with them `mean_of_tasks`, the mean over tasks of macro-F1 or CCC.
    """
    metrics: dict[str, float] = {}
    scored = scored_tasks(evaluated, model.labels)
    concordances = {task: float(concordance(its.true, its.predicted)) for task, its in scored.items()}
    for task, task_rows in group_by_task(evaluated, model.labels).items():
        labelled, kind = [row for row in task_rows if row.true is not None], model.labels.kind(task)
        if task_kind(kind).is_set and labelled:
            labelled = _with_thresholds(labelled)
        if labelled:
            true, predicted_labels = _true_labels(labelled), _predicted_labels(labelled)
            report = classification(true, predicted_labels, model.labels.tasks[task], kind)
            metrics |= {f"{task}_accuracy": report.accuracy, f"{task}_macro_f1": report.macro_f1}
        if not task_kind(kind).is_set and len(predicted := set(_predicted_labels(labelled))) == 1:
            metrics[f"{task}{ONLY_LABEL}"] = float(model.labels.tasks[task].index(predicted.pop()))
    for name in ("accuracy", "macro_f1"):
        values = [value for key, value in metrics.items() if key.endswith(f"_{name}")]
        if values or not concordances:
            metrics[name] = float(np.mean(values)) if values else 0.0
    if concordances:
        metrics |= {f"{task}_{CCC.name}": value for task, value in concordances.items()}
        metrics[CCC.name] = float(np.mean(list(concordances.values())))
        if values:
            metrics[MEAN_OF_TASKS.name] = float(np.mean([*values, *concordances.values()]))
    if model.active_expert is None and model.gate is not None:
        metrics["routing"] = routing_report(evaluated, model).accuracy
    return metrics


def _with_thresholds(rows: Sequence[PredictedRow]) -> list[PredictedRow]:
    """Rows of a multi-label task, decided by thresholds that are fitted to them."""
    labels = rows[0].masked.labels
    probabilities = np.stack([row.masked.probabilities for row in rows])  # (N, K)
    sets = [set(task_kind(row.masked.kind).split(str(row.true))) for row in rows]
    truth = np.array([[label in own for label in labels] for own in sets])  # (N, K)
    thresholds = choose_thresholds(probabilities, truth)  # (K,)
    return [replace(row, masked=replace(row.masked, thresholds=thresholds)) for row in rows]


def evaluate(
    model: Mixture,
    rows: Dataset,
    template: str,
    max_length: int,
    routing: RoutingChoice = "soft",
    pin: bool = False,
    quiet: bool = True,
    calibration: Calibration | None = None,
    mode: RoutingMode | None = None,
) -> tuple[EvaluationReport, list[PredictedRow]]:
    """Evaluate a model on labelled rows.

    Args:
        template: the prompt template that the model was trained with.
        max_length: tokens at which a text is truncated.
        routing: `auto`, `soft`, `pruned` or `hard`.
        pin: restrict each row to the experts of its true domain.
        quiet: show no progress bar.
        calibration: of the model; it changes confidences, not labels.
        mode: how the model routes, besides `routing`; by default its own mode.

    Returns:
        the report and the evaluated rows.
    """
    predictor = TorchPredictor(model, template, max_length, routing, calibration=calibration, mode=mode)
    evaluated = evaluate_rows(predictor, rows, pin=pin, title="evaluate", quiet=quiet)
    report = report_rows(evaluated, model, "pinned" if pin else predictor.routing)
    if calibration is not None and calibration.sets_level is not None:
        logits = logits_by_task(evaluated, model.labels)
        sets = label_set_report(calibration.tasks, logits, model.labels.domain_by_task)
        report = report.model_copy(update={"label_sets": sets})
    return report, evaluated


def report_rows(evaluated: Sequence[PredictedRow], model: Mixture, routing_mode: str) -> EvaluationReport:
    """Report of evaluated rows, as `evaluate` returns it.

    Args:
        routing_mode: `soft`, `pruned`, `hard` or `pinned`, to be recorded.
    """
    labelled = [row for row in evaluated if row.true is not None]
    groups = group_by_task(labelled, model.labels)
    tasks, tasks_routed = (_task_metrics(groups, model.labels, routed) for routed in (False, True))
    predictions = predictions_by_task(labelled, model.labels)
    scores = {task: task_scores(task_rows) for task, task_rows in group_by_task(evaluated, model.labels).items()}
    return EvaluationReport(
        rows=len(evaluated),
        routing_mode=routing_mode,
        tasks=tasks,
        tasks_routed=tasks_routed,
        domains=_domain_means(tasks, predictions, model.labels),
        mean=_mean_metrics(tasks, predictions) if tasks else None,
        scores={task: its for task, its in scores.items() if its is not None},
        routing=routing_report(evaluated, model),
    )


@writes_run
def evaluate_folder(
    work: Workspace,
    folder: Path,
    sets: Sequence[str],
    data: Path | None,
    domain: str | None,
    routing: RoutingChoice,
    pin: bool,
    per_expert: bool = False,
) -> EvaluationReport:
    """Evaluate a model folder with its calibration, and write the results below `evaluation/`.

    Args:
        sets: overrides of the backbone settings, see `load_mixture`.
        data: a labelled file, instead of the run's test rows.
        domain: only rows of this domain.
        routing: `auto`, `soft`, `pruned` or `hard`.
        pin: restrict each row to the experts of its true domain.
        per_expert: also evaluate each expert on its own, and write `alone.csv`.

    Raises:
        Fault: if the model cannot be loaded, there are no rows, or the folder cannot be written.
    """
    target = work.out / layout.EVALUATION / folder.name
    check_no_result(data, target)
    model, template, max_length = load_mixture(resolve(folder), sets)
    rows = load_evaluation_rows(work, model, data=data, domain=domain)
    calibration = read_calibration(folder)
    report, evaluated = evaluate(model, rows, template, max_length, routing, pin, quiet=False, calibration=calibration)
    write_evaluation(target, report, evaluated)
    if per_expert:
        write_per_expert(target, TorchPredictor(model, template, max_length, calibration=calibration), evaluated)
    info(f"written to {target}")
    return report


def group_by_task(rows: Sequence[PredictedRow], space: LabelSpace) -> dict[str, list[PredictedRow]]:
    """Rows by task, in the order of the label space; tasks without rows are left out."""
    groups: dict[str, list[PredictedRow]] = {task: [] for task in space.tasks}
    for row in rows:
        groups[row.row["task"]].append(row)
    return {task: task_rows for task, task_rows in groups.items() if task_rows}


def logits_by_task(rows: Sequence[PredictedRow], space: LabelSpace) -> dict[str, TaskLogits]:
    """Logits of the labelled rows by task, each in the labels of its own task."""
    groups = group_by_task([row for row in rows if row.true is not None], space)
    return {task: TaskLogits.from_predictions([r.masked for r in g], _true_labels(g)) for task, g in groups.items()}


def predictions_by_task(rows: Sequence[PredictedRow], space: LabelSpace) -> dict[str, TaskPredictions]:
    """Labelled rows by task, as `moe.bootstrap` takes them."""
    return {
        task: TaskPredictions.from_labels(
            _true_labels(own), _predicted_labels(own), space.tasks[task], space.kind(task)
        )
        for task, own in group_by_task(rows, space).items()
    }


def _true_labels(rows: Sequence[PredictedRow]) -> list[str]:
    return [str(row.true) for row in rows]


def _predicted_labels(rows: Sequence[PredictedRow], routed: bool = False) -> list[str]:
    return [(row.routed if routed else row.masked).label for row in rows]


def _task_metrics(
    groups: Mapping[str, Sequence[PredictedRow]], space: LabelSpace, routed: bool
) -> dict[str, LabelMetrics]:
    return {
        task: label_metrics(
            _true_labels(rows),
            _predicted_labels(rows, routed),
            space.tasks[task],
            space.kind(task),
            None if routed else ranked_probabilities(rows),
        )
        for task, rows in groups.items()
    }


def ranked_probabilities(rows: Sequence[PredictedRow]) -> np.ndarray | None:
    """Probabilities of the labels (N, K) of rows of a multi-label task, for ranking metrics; None for other tasks."""
    if not task_kind(rows[0].masked.kind).is_set:
        return None
    return np.stack([row.masked.probabilities for row in rows])  # (N, K)


def scored_tasks(rows: Sequence[PredictedRow], space: LabelSpace) -> dict[str, ScoreAnswers]:
    """Answers for the rows of each task with a score alone, without tasks that have no such rows."""
    own = group_by_task([row for row in rows if row.row["task"] in space.score_tasks], space)
    return {task: answers for task, of_task in own.items() if (answers := score_answers(of_task)) is not None}


def task_scores(rows: Sequence[PredictedRow]) -> ScoreMetrics | None:
    """Metrics of the rows of a task with a true and a predicted score; None without such rows."""
    return score_metrics(score_answers(rows))


def score_answers(rows: Sequence[PredictedRow]) -> ScoreAnswers | None:
    """Answers for the rows of a task with a true and a predicted score; None without such rows."""
    answered = [
        (str(row.row["id"]), score, polarity)
        for row in rows
        if (score := row.row["score"]) is not None and (polarity := row.masked.polarity) is not None
    ]
    if not answered:
        return None
    ids, true, predicted = zip(*answered, strict=True)
    return ScoreAnswers(ids, np.array(true, dtype=float), np.array(predicted, dtype=float))


def _mean_metrics(tasks: Mapping[str, LabelMetrics], predictions: Mapping[str, TaskPredictions]) -> MeanMetrics:
    means = MeanMetrics(
        accuracy=float(np.mean([its.accuracy for its in tasks.values()])),
        macro_f1=float(np.mean([its.macro_f1 for its in tasks.values()])),
        weighted_f1=float(np.mean([its.weighted_f1 for its in tasks.values()])),
    )
    return means.model_copy(update=metric_intervals([predictions[task] for task in tasks]))


def _domain_means(
    tasks: Mapping[str, LabelMetrics], predictions: Mapping[str, TaskPredictions], space: LabelSpace
) -> dict[str, MeanMetrics]:
    by_domain: dict[str, dict[str, LabelMetrics]] = {}
    for task, report in tasks.items():
        by_domain.setdefault(space.domain_by_task[task], {})[task] = report
    return {domain: _mean_metrics(reports, predictions) for domain, reports in by_domain.items()}


def routing_report(rows: Sequence[PredictedRow], model: Mixture) -> RoutingReport:
    """How a model routes rows."""
    usage = Usage(model.bank.routed_experts, [domain.name for domain in model.domains])
    if rows and model.bank.routed_experts:
        weights = torch.tensor(np.stack([row.masked.routing_weights for row in rows]))  # (N, E)
        domain = torch.tensor([model.domain_index(row.row["domain"]) for row in rows])  # (N,)
        usage.add(weights, domain, model.domain_expert_mask)
    return RoutingReport(
        accuracy=usage.domain_accuracy(),
        entropy=usage.mean_entropy(),
        table=usage.by_domain(),
        collapsed=list(usage.collapsed_experts()),
    )
