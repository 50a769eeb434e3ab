"""How good a mixture is: per task and domain, routed as a user without labels gets it and with the true domain given.

Figures are `moe.evaluation.metrics`', answers `moe.inference.predictor`'s, baselines `moe.evaluation.baselines`'.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from experts.atomic_io import write_json
from experts.domain import LabelSpace
from experts.errors import Fault
from moe.bootstrap import METRICS, TaskPredictions, interval_ends
from moe.console import progress_bar, info
from moe.data.writers import open_writer
from moe.evaluation.test_sets import load_evaluation_rows
from moe.evaluation.metrics import classification, regression
from moe.inference.calibration import Calibration, read_calibration
from moe.inference.loading import check_routing, load_model
from moe.inference.per_expert import per_expert_columns
from moe.inference.predictor import Prediction, Predictor, Routing
from moe.model.mixture import Mixture
from moe.runs.findings import PER_EXPERT_CSV
from moe.runs.workspace import Workspace
from router.routing_stats import Usage


@dataclass(frozen=True)
class EvaluatedRow:
    """One labelled row, and what the mixture said.

    Args:
        row: id, text, label, score, task, domain as prepared.
        true: the label's name, or None.
        masked: answered with the row's own task.
        routed: answered with the task of the most probable domain, as a user without labels gets it.
    """

    row: Mapping[str, Any]
    true: str | None
    masked: Prediction
    routed: Prediction


def in_windows(rows: Dataset, size: int) -> Iterator[list[dict[str, Any]]]:
    """Rows as lists of dicts, in order."""
    for columns in rows.iter(size):
        yield [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def evaluate_rows(predictor: Predictor, rows: Dataset, pin: bool = False, title: str = "", quiet: bool = True) -> list[EvaluatedRow]:
    """Answer every row.

    Args:
        pin: give each row to the experts of its true domain.
    """
    space = predictor.model.labels
    found: list[EvaluatedRow] = []
    with progress_bar(title, len(rows), "text", quiet) as meter:
        for batch in in_windows(rows, predictor.chunk_size):
            scores = predictor.score([row["text"] for row in batch], [r["domain"] for r in batch] if pin else None)
            masked = predictor.to_predictions(scores, [row["task"] for row in batch])
            routed = predictor.to_predictions(scores, predictor.routed_tasks(scores))
            found += [EvaluatedRow(r, true_label(r, space), m, u) for r, m, u in zip(batch, masked, routed, strict=True)]
            meter.advance(len(batch))
    return found


def true_label(row: Mapping[str, Any], space: LabelSpace) -> str | None:
    """The name of a row's label; None where it has none."""
    return space.tasks[row["task"]][row["label"]] if row["label"] >= 0 else None


def validate(model: Mixture, rows: Dataset, template: str, max_length: int) -> dict[str, float]:
    """Validation figures: accuracy and macro-F1 by task and averaged over tasks; routing accuracy if routed."""
    judged = evaluate_rows(Predictor(model, template, max_length), rows)
    figures: dict[str, float] = {}
    for task, some in group_by_task(judged, model.labels).items():
        one = _labels_report([j for j in some if j.true is not None], model.labels.tasks[task])
        figures |= {f"{task}_{name}": one[name] for name in ("accuracy", "macro_f1") if name in one}
    for name in ("accuracy", "macro_f1"):
        values = [value for key, value in figures.items() if key.endswith(f"_{name}")]
        figures[name] = float(np.mean(values)) if values else 0.0
    if model.active_expert is None and model.gate is not None:
        figures["routing"] = routing_report(judged, model)["accuracy"]
    return figures


def evaluate(
    model: Mixture,
    rows: Dataset,
    template: str,
    max_length: int,
    routing: Routing = "soft",
    pin: bool = False,
    quiet: bool = True,
    calibration: Calibration | None = None,
) -> tuple[dict[str, Any], list[EvaluatedRow]]:
    """Everything that `moe evaluate` prints: by task, by domain, over all; routing; and the judged rows.

    Returns:
        `tasks` (masked by the task's own labels), `tasks_routed` (without the true domain), `domains`, `mean`,
        `scores` (MSE, MAE, RMSE, R² by task) and `routing`. Accuracy and F1 come with `…_interval`: [low, high], 95 %.
    """
    predictor = Predictor(model, template, max_length, routing, calibration=calibration)
    judged = evaluate_rows(predictor, rows, pin, "evaluate", quiet)
    labelled = [one for one in judged if one.true is not None]
    groups = group_by_task(labelled, model.labels)
    tasks, routed = (_tasks_report(groups, model.labels, routed) for routed in (False, True))
    answers = predictions_by_task(labelled, model.labels)
    report = {
        "rows": len(judged),
        "routing_mode": "pinned" if pin else routing,
        "tasks": tasks,
        "tasks_routed": routed,
        "domains": _domain_means(tasks, answers, model.labels),
        "mean": _mean_figures(tasks, answers),
        "scores": {t: one for t, some in group_by_task(judged, model.labels).items() if (one := _scores_report(some))},
        "routing": routing_report(judged, model),
    }
    return report, judged


def evaluate_folder(
    work: Workspace,
    folder: Path,
    sets: Sequence[str],
    data: Path | None,
    domain: str | None,
    routing: str,
    pin: bool,
    alone: bool = False,
) -> dict[str, Any]:
    """`moe evaluate`: measure a model folder, with its calibration, and write what was found below `evaluation/`.

    Args:
        alone: ask each expert alone too, and write `alone.csv`.

    Raises:
        Fault: when the model cannot be opened, there are no rows, or the folder cannot be written.
    """
    check_routing(routing)
    model, template, length = load_model(folder, sets)
    rows = load_evaluation_rows(work, model, data, domain, None, ())
    calibration = read_calibration(folder)
    report, judged = evaluate(model, rows, template, length, routing, pin, False, calibration)  # type: ignore[arg-type]
    target = work.out / "evaluation" / folder.name
    write_evaluation(target, report, judged)
    if alone:
        write_per_expert(target, Predictor(model, template, length, calibration=calibration), judged)
    info(f"written to {target}")
    return report


def group_by_task(judged: Sequence[EvaluatedRow], space: LabelSpace) -> dict[str, list[EvaluatedRow]]:
    """The rows of each task that has some, in the label space's order."""
    groups: dict[str, list[EvaluatedRow]] = {task: [] for task in space.tasks}
    for one in judged:
        groups[one.row["task"]].append(one)
    return {task: some for task, some in groups.items() if some}


def predictions_by_task(judged: Sequence[EvaluatedRow], space: LabelSpace) -> dict[str, TaskPredictions]:
    """Labelled rows as `moe.bootstrap` takes them, by task."""
    return {task: _answers(some, space.tasks[task]) for task, some in group_by_task(judged, space).items()}


def _answers(judged: Sequence[EvaluatedRow], labels: Sequence[str], routed: bool = False) -> TaskPredictions:
    said = [(one.routed if routed else one.masked).label for one in judged]
    return TaskPredictions.from_labels([str(one.true) for one in judged], said, labels)


def _tasks_report(groups: Mapping[str, Sequence[EvaluatedRow]], space: LabelSpace, routed: bool) -> dict[str, dict[str, Any]]:
    return {
        task: _labels_report(some, labels := space.tasks[task], routed)
        | interval_ends([_answers(some, labels, routed)])
        for task, some in groups.items()
    }


def _labels_report(judged: Sequence[EvaluatedRow], labels: Sequence[str], routed: bool = False) -> dict[str, Any]:
    if not judged:
        return {}
    answers = [(one.routed if routed else one.masked).label for one in judged]
    return classification([str(one.true) for one in judged], answers, labels)


def _scores_report(judged: Sequence[EvaluatedRow]) -> dict[str, float]:
    pairs = [
        (one.row["score"], one.masked.polarity)
        for one in judged
        if one.row["score"] is not None and one.masked.polarity is not None
    ]
    return regression(*np.array(pairs, dtype=np.float64).T) if pairs else {}


def _mean_figures(tasks: Mapping[str, Mapping[str, Any]], answers: Mapping[str, TaskPredictions]) -> dict[str, Any]:
    if not tasks:
        return {}
    means = {name: float(np.mean([report[name] for report in tasks.values()])) for name in METRICS}
    return means | interval_ends([answers[task] for task in tasks])


def _domain_means(
    tasks: Mapping[str, Mapping[str, Any]], answers: Mapping[str, TaskPredictions], space: LabelSpace
) -> dict[str, dict[str, Any]]:
    names = dict.fromkeys(space.domain_by_task[task] for task in tasks)
    own = {name: {t: report for t, report in tasks.items() if space.domain_by_task[t] == name} for name in names}
    return {name: _mean_figures(some, answers) for name, some in own.items()}


def routing_report(judged: Sequence[EvaluatedRow], model: Mixture) -> dict[str, Any]:
    """Domain × expert mean soft shares, mean entropy, and how often the most probable domain is the true one."""
    usage = Usage(model.bank.routed_experts, [one.name for one in model.domains])
    if judged and model.bank.routed_experts:
        shares = torch.tensor(np.stack([one.masked.routing_weights for one in judged]))  # (N, E)
        domain = torch.tensor([model.domain_index(one.row["domain"]) for one in judged])  # (N,)
        usage.add(shares, domain, model.domain_expert_mask)
    return {
        "accuracy": usage.domain_accuracy(),
        "entropy": usage.mean_entropy(),
        "table": usage.by_domain(),
        "collapsed": list(usage.collapsed_experts()),
    }


def write_evaluation(folder: Path, report: Mapping[str, Any], judged: Sequence[EvaluatedRow]) -> None:
    """Write `metrics.json`, and the right and the wrong rows as CSV.

    Raises:
        Fault: when the folder cannot be written.
    """
    write_json(folder / "metrics.json", dict(report))
    (folder / PER_EXPERT_CSV).unlink(missing_ok=True)  # it told of an evaluation before
    for name, right in (("right.csv", True), ("wrong.csv", False)):
        with open_writer(folder / name) as writer:
            for one in judged:
                if one.true is not None and (one.masked.label == one.true) is right:
                    writer.write(_flat(one))


def write_per_expert(folder: Path, predictor: Predictor, judged: Sequence[EvaluatedRow]) -> None:
    """Write the labelled rows again as `alone.csv`, with what each expert alone says of them.

    Raises:
        Fault: when there is but one expert, or the folder cannot be written.
    """
    if predictor.model.active_expert is not None or len(predictor.model.bank.routed_experts) < 2:
        raise Fault("a mixture of several experts for --alone", "one expert", "leave it out")
    rows = [one for one in judged if one.true is not None]
    texts, tasks = ([str(one.row[name]) for one in rows] for name in ("text", "task"))
    with open_writer(folder / PER_EXPERT_CSV) as writer:
        for one, said in zip(rows, per_expert_columns(predictor, texts, tasks, quiet=False), strict=True):
            writer.write(_flat(one) | dict(said))


def _flat(one: EvaluatedRow) -> dict[str, Any]:
    return {
        "id": one.row["id"],
        "domain": one.row["domain"],
        "task": one.row["task"],
        "text": one.row["text"],
        "label": one.true,
        "predicted": one.masked.label,
        "predicted_routed": one.routed.label,
        "confidence": round(one.masked.confidence, 6),
        "polarity": one.masked.polarity,
        "routing_entropy": round(one.masked.entropy, 6),
    }
