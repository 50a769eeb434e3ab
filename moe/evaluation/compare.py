"""Two models on the same rows: both figures, their difference paired by row, and whether it is one.

Rows are `moe.evaluation.test_sets`'s, answers `moe.evaluation.evaluate`'s, intervals and tests `moe.bootstrap`'.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Group, RenderableType
from rich.text import Text

from experts.domain import Labels
from experts.errors import Fault
from experts.expert_io import CARD as EXPERT_CARD
from experts.expert_io import read_expert_card
from moe.bootstrap import TaskPredictions, Interval, bootstrap_differences, bootstrap_intervals, mcnemar
from moe.checkpoints.mixture import read_card
from moe.console import Table
from moe.evaluation.test_sets import load_evaluation_rows
from moe.evaluation.evaluate import predictions_by_task, evaluate_rows
from moe.inference.loading import load_model
from moe.inference.predictor import Predictor
from moe.runs.workspace import Workspace

NO_DIFFERENCE, A_BETTER, B_BETTER = "none", "A better", "B better"
SHOWN = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class ModelTasks:
    """What a model's card says that it answers: label names by task, and its domains."""

    tasks: dict[str, Labels]
    domains: tuple[str, ...]


def compare(
    work: Workspace,
    models: tuple[Path, Path],
    sets: Sequence[str] = (),
    data: Path | None = None,
    domain: str | None = None,
    quiet: bool = True,
) -> dict[str, Any]:
    """Answer the same labelled rows by two models, one after the other, and set their figures side by side.

    Only rows of tasks that both know are answered.

    Args:
        models: two folders, each of a mixture or an expert.
        sets, data, domain: as for `moe evaluate`.

    Returns:
        `a` and `b` (the folders), and by task and in the `mean` over tasks: `accuracy` and `macro_f1`, each with `a`,
        `b`, their `difference` (a − b, a share), its 95 % `interval` and `verdict`; `mcnemar_p`, for the mean of all
        rows pooled. `not_compared`: the tasks that only `a`, or only `b`, knows.

    Raises:
        Fault: when a model cannot be opened, or the two have no task in common.
    """
    first, second = (read_model_tasks(folder) for folder in models)
    both = _in_common(models, first, second)
    left_out = sorted(set(first.domains) ^ set(second.domains))
    within = [name for name in work.run.domains if both & work.run.tasks_of(name).keys()]
    sides = []
    for folder in models:  # one is let go before the next is opened
        model, template, max_length = load_model(folder, sets)
        rows = _of_tasks(load_evaluation_rows(work, model, data, domain, within, left_out), both)
        judged = evaluate_rows(Predictor(model, template, max_length), rows, title=folder.name, quiet=quiet)
        sides.append(predictions_by_task([one for one in judged if one.true is not None], model.labels))
        del model
    pairs = {task: (one, sides[1][task]) for task, one in sides[0].items()}
    if not pairs:
        raise Fault("rows of tasks that both know", "none with a label", "name others by --data or --domain")
    return {
        "a": str(models[0]),
        "b": str(models[1]),
        "tasks": {task: _set_side_by_side([pair]) for task, pair in pairs.items()},
        "mean": _set_side_by_side(list(pairs.values())),
        "not_compared": {
            side: [task for task in one.tasks if task not in both] for side, one in (("a", first), ("b", second))
        },
    }


def read_model_tasks(folder: Path) -> ModelTasks:
    """What a model answers, by its card; no weight is loaded.

    Raises:
        Fault: when the folder is no whole model.
    """
    if (folder / EXPERT_CARD).is_file():
        its = read_expert_card(folder / EXPERT_CARD)
        return ModelTasks(its.tasks, () if its.always_on else (its.domain,))
    card = read_card(folder)
    tasks = {task: labels for one in card.domains for task, labels in one.tasks.items()}
    return ModelTasks(tasks, tuple(one.name for one in card.domains))


def _in_common(models: tuple[Path, Path], first: ModelTasks, second: ModelTasks) -> set[str]:
    both = first.tasks.keys() & second.tasks.keys()
    if not both:
        found = "; ".join(
            f"{folder} on {', '.join(one.tasks) or 'no labels'}"
            for folder, one in zip(models, (first, second), strict=True)
        )
        raise Fault("two models with a task in common", found, "name others")
    for task in sorted(both):
        if first.tasks[task] != second.tasks[task]:
            found = " and ".join(", ".join(one.tasks[task]) for one in (first, second))
            raise Fault(f"the same labels of {task} in both models", found, "compare models of one config")
    return both


def _of_tasks(rows: Dataset, tasks: Collection[str]) -> Dataset:
    return rows.select([place for place, task in enumerate(rows["task"]) if task in tasks])


def _set_side_by_side(pairs: Sequence[tuple[TaskPredictions, TaskPredictions]]) -> dict[str, Any]:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    alone, less = [bootstrap_intervals(side) for side in (ours, theirs)], bootstrap_differences(ours, theirs)
    figures = {
        name: {
            "a": alone[0][name].value,
            "b": alone[1][name].value,
            "difference": less[name].value,
            "interval": less[name].bounds,
            "verdict": verdict(less[name]),
        }
        for name in SHOWN
    }
    right = [np.concatenate([one.predicted[0] == one.true for one in side]) for side in (ours, theirs)]  # (N,) each
    return {"rows": len(right[0]), **figures, "mcnemar_p": mcnemar(*right)}


def verdict(difference: Interval) -> str:
    """A difference in words: none where its interval holds 0."""
    return NO_DIFFERENCE if difference.contains_zero else A_BETTER if difference.value > 0 else B_BETTER


def comparison_view(report: Mapping[str, Any]) -> RenderableType:
    """All that `moe compare` prints."""
    table = Table(header_style="bold")
    for name in ("task", "figure", "A", "B", "A − B,\npoints", "95 %", "McNemar's\np", "verdict"):
        table.add_column(name, justify="left" if name in ("task", "figure", "verdict") else "right")
    for task, one in [*report["tasks"].items(), ("mean", report["mean"])]:
        for name, shown in SHOWN.items():
            first = name == "accuracy"
            p = _probability(one["mcnemar_p"]) if first else ""
            table.add_row(task if first else "", shown, *_cells(one[name], p), end_section=not first)
    head = Text(f"A: {report['a']}\nB: {report['b']}\n{report['mean']['rows']} rows answered by both")
    left = [
        Text(f"not compared: {', '.join(tasks)}, known to {side.upper()} alone")
        for side, tasks in report["not_compared"].items()
        if tasks
    ]
    return Group(head, table, *left)


def _cells(figure: Mapping[str, Any], p: str) -> list[RenderableType]:
    low, high = figure["interval"]
    return [
        f"{figure['a']:.3f}",
        f"{figure['b']:.3f}",
        f"{100 * figure['difference']:+.1f}",
        Text(f"{100 * low:+.1f} to {100 * high:+.1f}", style="dim"),
        p,
        Text(figure["verdict"], style="dim" if figure["verdict"] == NO_DIFFERENCE else "bold"),
    ]


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
