"""Two models on the same rows: both figures, their difference paired by row, and whether it is one.

Rows are `moe.judging`'s, answers `moe.evaluate`'s, intervals and tests `moe.statistics`'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from experts.domain import Labels
from experts.errors import Fault
from moe.evaluate import answers_by_task, judge
from moe.judging import test_rows
from moe.opening import open_model
from moe.predict import Predictor
from moe.statistics import Answers, Interval, differences, intervals, mcnemar
from moe.tables import Table
from moe.workspace import Workspace

NONE, FIRST, SECOND = "none", "A better", "B better"
SHOWN = {"accuracy": "accuracy", "macro_f1": "macro-F1"}


@dataclass(frozen=True)
class Side:
    """What one model said: answers and label names by task, the domains that its rows are of."""

    answers: dict[str, Answers]
    labels: dict[str, Labels]
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

    Args:
        models: two folders, each of a mixture or an expert.
        sets, data, domain: as for `moe evaluate`.

    Returns:
        `a` and `b` (the folders), and by task and in the `mean` over tasks: `accuracy` and `macro_f1`, each with `a`,
        `b`, their `difference` (a − b, a share), its 95 % `interval` and `verdict`; `mcnemar_p`, for the mean of all
        rows pooled.

    Raises:
        Fault: when a model cannot be opened, or the two have no task in common.
    """
    first = _asked(work, models[0], sets, data, domain, None, quiet)
    second = _asked(work, models[1], sets, data, domain, first.domains, quiet)
    tasks = [task for task in first.answers if task in second.answers]
    _refuse_strangers(models, first, second, tasks)
    pairs = {task: (first.answers[task], second.answers[task]) for task in tasks}
    return {
        "a": str(models[0]),
        "b": str(models[1]),
        "tasks": {task: _set_side_by_side([pair]) for task, pair in pairs.items()},
        "mean": _set_side_by_side(list(pairs.values())),
    }


def _asked(
    work: Workspace,
    folder: Path,
    sets: Sequence[str],
    data: Path | None,
    domain: str | None,
    within: Sequence[str] | None,
    quiet: bool,
) -> Side:
    """One model's answers; it is let go before the next is opened."""
    model, template, max_length = open_model(folder, sets)
    rows = test_rows(work, model, data, domain, within)
    judged = judge(Predictor(model, template, max_length), rows, title=folder.name, quiet=quiet)
    labelled = [one for one in judged if one.true is not None]
    return Side(answers_by_task(labelled, model.labels), model.labels.tasks, tuple(dict.fromkeys(rows["domain"])))


def _refuse_strangers(models: tuple[Path, Path], first: Side, second: Side, tasks: Sequence[str]) -> None:
    if not tasks:
        found = "; ".join(
            f"{folder} on {', '.join(one.answers) or 'no labelled row'}"
            for folder, one in zip(models, (first, second), strict=True)
        )
        raise Fault("two models with a task in common", found, "name others, or rows of both by --data")
    for task in tasks:
        if first.labels[task] != second.labels[task]:
            found = " and ".join(", ".join(one.labels[task]) for one in (first, second))
            raise Fault(f"the same labels of {task} in both models", found, "compare models of one config")


def _set_side_by_side(pairs: Sequence[tuple[Answers, Answers]]) -> dict[str, Any]:
    ours, theirs = [one for one, _ in pairs], [other for _, other in pairs]
    alone, less = [intervals(side) for side in (ours, theirs)], differences(ours, theirs)
    figures = {
        name: {
            "a": alone[0][name].value,
            "b": alone[1][name].value,
            "difference": less[name].value,
            "interval": less[name].ends,
            "verdict": verdict(less[name]),
        }
        for name in SHOWN
    }
    right = [np.concatenate([one.said[0] == one.true for one in side]) for side in (ours, theirs)]  # (N,) each
    return {"rows": len(right[0]), **figures, "mcnemar_p": mcnemar(*right)}


def verdict(difference: Interval) -> str:
    """A difference in words: none where its interval holds 0."""
    return NONE if difference.holds_zero else FIRST if difference.value > 0 else SECOND


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
    return Group(Text(f"A: {report['a']}\nB: {report['b']}\n{report['mean']['rows']} rows answered by both"), table)


def _cells(figure: Mapping[str, Any], p: str) -> list[RenderableType]:
    low, high = figure["interval"]
    return [
        f"{figure['a']:.3f}",
        f"{figure['b']:.3f}",
        f"{100 * figure['difference']:+.1f}",
        Text(f"{100 * low:+.1f} to {100 * high:+.1f}", style="dim"),
        p,
        Text(figure["verdict"], style="dim" if figure["verdict"] == NONE else "bold"),
    ]


def _probability(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "< 0.001"
