"""Comparison of two models on the same rows: paired differences with intervals, and McNemar's test."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from rich.console import Group, RenderableType
from rich.text import Text

from experts.cards import EXPERT_CARD
from experts.domain import Labels
from experts.errors import Fault
from experts.expert_io import read_expert_card
from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences, bootstrap_intervals, mcnemar
from moe.checkpoints.mixture import read_card
from moe.console import Table
from moe.evaluation.evaluate import evaluate_rows, predictions_by_task
from moe.evaluation.metrics import SCORE_METRICS, score_differences
from moe.evaluation.rows import PredictedRow
from moe.evaluation.test_sets import load_evaluation_rows
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.results.base import Bounds
from moe.results.evaluation import Comparison, MetricDifference, TaskComparison
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

NO_DIFFERENCE, A_BETTER, B_BETTER = "none", "A better", "B better"
METRIC_TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class ModelTasks:
    """The labels of a model's tasks, and its domains, as stated on its card."""

    tasks: dict[str, Labels]
    domains: tuple[str, ...]


def compare(
    work: Workspace,
    models: tuple[Path, Path],
    sets: Sequence[str] = (),
    data: Path | None = None,
    domain: str | None = None,
    quiet: bool = True,
) -> Comparison:
    """Compare two models on the labelled rows of the tasks that both have.

    Args:
        models: two folders, each of a mixture or a single expert; they are loaded one after the other.
        sets: as for `moe evaluate`.
        data: as for `moe evaluate`.
        domain: as for `moe evaluate`.
        quiet: show no progress bar.

    Raises:
        Fault: if a model cannot be loaded, or the two have no task in common.
    """
    first, second = (read_model_tasks(folder) for folder in models)
    common = _common_tasks(models, first, second)
    other_domains = sorted(set(first.domains) ^ set(second.domains))
    within = [name for name in work.run.domains if common & work.run.tasks_of(name).keys()]
    sides, scores = [], []
    for folder in models:
        model, template, max_length = load_mixture(resolve(folder), sets)
        rows = load_evaluation_rows(work, model, data=data, domain=domain, within=within, other_domains=other_domains)
        predictor = TorchPredictor(model, template, max_length)
        evaluated = evaluate_rows(predictor, _select_tasks(rows, common), title=folder.name, quiet=quiet)
        sides.append(predictions_by_task([row for row in evaluated if row.true is not None], model.labels))
        scores.append(_scores_by_task(evaluated))
        del model, predictor  # free the memory before the next one is loaded
    pairs = {task: (predictions, sides[1][task]) for task, predictions in sides[0].items()}
    compared = {task: _compare_scores(scores[0][task], scores[1][task]) for task in scores[0] if task in scores[1]}
    if not pairs and not compared:
        raise Fault("labelled rows of tasks that both models have", "none", "use other rows with --data or --domain")
    return Comparison(
        a=str(models[0]),
        b=str(models[1]),
        tasks={task: _compare_pairs([pair]) for task, pair in pairs.items()},
        mean=_compare_pairs(list(pairs.values())) if pairs else None,
        scores=compared,
        not_compared={
            "a": [task for task in first.tasks if task not in common],
            "b": [task for task in second.tasks if task not in common],
        },
    )


def read_model_tasks(folder: Path) -> ModelTasks:
    """Read a model's tasks and domains from its card, without loading weights.

    Raises:
        Fault: if the folder holds no complete model.
    """
    if (folder / EXPERT_CARD).is_file():
        expert_card = read_expert_card(folder / EXPERT_CARD)
        return ModelTasks(expert_card.tasks, () if expert_card.always_on else (expert_card.domain,))
    card = read_card(folder)
    tasks = {task: labels for domain in card.domains for task, labels in domain.tasks.items()}
    return ModelTasks(tasks, tuple(domain.name for domain in card.domains))


def _common_tasks(models: tuple[Path, Path], first: ModelTasks, second: ModelTasks) -> set[str]:
    common = first.tasks.keys() & second.tasks.keys()
    if not common:
        tasks = "; ".join(
            f"{folder} with {', '.join(model_tasks.tasks) or 'no labels'}"
            for folder, model_tasks in zip(models, (first, second), strict=True)
        )
        raise Fault("two models with a task in common", tasks, "choose other models")
    for task in sorted(common):
        if first.tasks[task] != second.tasks[task]:
            labels = " and ".join(", ".join(model_tasks.tasks[task]) for model_tasks in (first, second))
            raise Fault(f"the same labels of {task} in both models", labels, "compare models of one config")
    return common


def _select_tasks(rows: Dataset, tasks: Collection[str]) -> Dataset:
    return rows.select([index for index, task in enumerate(rows["task"]) if task in tasks])


def _compare_pairs(pairs: Sequence[tuple[TaskPredictions, TaskPredictions]]) -> TaskComparison:
    sides = [[first for first, _ in pairs], [second for _, second in pairs]]
    (a, b), difference = [bootstrap_intervals(side) for side in sides], bootstrap_differences(sides[0], sides[1])
    metrics = {
        name: MetricDifference(
            a=a[name].value,
            b=b[name].value,
            difference=difference[name].value,
            interval=(difference[name].low, difference[name].high),
            verdict=verdict(difference[name]),
        )
        for name in METRIC_TITLES
    }
    a_correct, b_correct = (np.concatenate([task.predicted[0] == task.true for task in side]) for side in sides)  # (N,)
    return TaskComparison(
        rows=len(a_correct),
        accuracy=metrics["accuracy"],
        macro_f1=metrics["macro_f1"],
        mcnemar_p=mcnemar(a_correct, b_correct),
    )


def _scores_by_task(rows: Sequence[PredictedRow]) -> dict[str, np.ndarray]:
    """True and predicted scores (2, N) of the rows that have both, by task."""
    pairs: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if (score := row.row["score"]) is not None and (polarity := row.masked.polarity) is not None:
            pairs.setdefault(row.row["task"], []).append((score, polarity))
    return {task: np.array(values, dtype=np.float64).T for task, values in pairs.items()}


def _compare_scores(a: np.ndarray, b: np.ndarray) -> dict[str, MetricDifference]:
    """Differences of the score metrics of two models, from their true and predicted scores (2, N)."""
    metrics = score_differences(a[0], a[1], b[1])
    return {
        name: MetricDifference(
            a=its.a,
            b=its.b,
            difference=its.difference,
            interval=its.interval,
            verdict=_score_verdict(name, its.interval),
        )
        for name, its in metrics.items()
    }


def _score_verdict(name: str, interval: Bounds | None) -> str:
    """A difference of a score metric in words; errors are better if they are smaller."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return NO_DIFFERENCE
    return A_BETTER if (interval[0] > 0) != (name in ("mse", "mae")) else B_BETTER


def verdict(difference: Interval) -> str:
    """A difference in words; it is none if its interval contains 0."""
    return NO_DIFFERENCE if difference.contains_zero else A_BETTER if difference.value > 0 else B_BETTER


def comparison_view(report: Comparison) -> RenderableType:
    """Terminal output of `moe compare`."""
    table = Table(header_style="bold")
    for name in ("task", "metric", "A", "B", "A − B,\npoints", "95 %", "McNemar's\np", "verdict"):
        table.add_column(name, justify="left" if name in ("task", "metric", "verdict") else "right")
    means = [] if report.mean is None else [("mean", report.mean)]
    for task, comparison in [*report.tasks.items(), *means]:
        p = _format_probability(comparison.mcnemar_p)
        table.add_row(task, METRIC_TITLES["accuracy"], *_cells(comparison.accuracy, p))
        table.add_row("", METRIC_TITLES["macro_f1"], *_cells(comparison.macro_f1, ""), end_section=True)
    rows = "" if report.mean is None else f"\n{report.mean.rows} rows predicted by both"
    header = Text(f"A: {report.a}\nB: {report.b}{rows}")
    not_compared = [
        Text(f"not compared, because only {side.upper()} has them: {', '.join(tasks)}")
        for side, tasks in report.not_compared.items()
        if tasks
    ]
    return Group(
        header,
        *([table] if report.tasks else []),
        *([_scores_view(report.scores)] if report.scores else []),
        *not_compared,
    )


def _scores_view(scores: Mapping[str, Mapping[str, MetricDifference]]) -> Table:
    """Table of the differences of score metrics, by task."""
    table = Table(title="scores", title_justify="left", header_style="bold")
    for name in ("task", "metric", "A", "B", "A − B", "95 %", "verdict"):
        table.add_column(name, justify="left" if name in ("task", "metric", "verdict") else "right")
    for task, metrics in scores.items():
        for i, (name, its) in enumerate(metrics.items()):
            values = ["–" if value is None else f"{value:.3f}" for value in (its.a, its.b)]
            difference = "–" if its.difference is None else f"{its.difference:+.3f}"
            interval = "–" if its.interval is None else "{:+.3f} to {:+.3f}".format(*its.interval)
            cells: list[RenderableType] = [*values, difference, Text(interval, style="dim"), its.verdict]
            table.add_row("" if i else task, SCORE_METRICS[name], *cells, end_section=i + 1 == len(metrics))
    return table


def _cells(metric: MetricDifference, p: str) -> list[RenderableType]:
    assert metric.difference is not None
    assert metric.interval is not None
    low, high = metric.interval
    return [
        f"{metric.a:.3f}",
        f"{metric.b:.3f}",
        f"{100 * metric.difference:+.1f}",
        Text(f"{100 * low:+.1f} to {100 * high:+.1f}", style="dim"),
        p,
        Text(metric.verdict, style="dim" if metric.verdict == NO_DIFFERENCE else "bold"),
    ]


def _format_probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
