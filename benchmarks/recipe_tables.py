"""Results of `recipes.py`: one JSON line per case, recipe and model, and the tables of all cases."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moe.bootstrap import TaskPredictions
from moe.evaluation.metrics import regression

CASE_GROUPS = ("6-300", "6-1000", "2-1000", "4-1000", "6-3000")
"""Domains and training rows per domain."""
OURS = "mixture"
DRAWS = 2000
Result = dict[str, Any]
Labels = Mapping[str, Sequence[str]]


def print_results(results: Sequence[Result], groups: Sequence[str], sets: Labels) -> None:
    """Print a table per group of cases: macro-F1 by set, their mean, our mixture minus the model, minutes."""
    for group in groups:
        own = [result for result in results if result["case"].startswith(f"{group}-")]
        if not own:
            continue
        tasks = list(sets)[: int(group.split("-")[0])]
        domains, rows = group.split("-")
        table = Table(
            title=f"{domains} domains, {rows} training rows each: test macro-F1, mean over seeds; "
            f"{OURS} − model in points, 95 % over rows and seeds",
            title_justify="left",
        )
        for column in ("recipe", "model", "seeds", *tasks, "mean", f"{OURS} − model", "right domain", "minutes"):
            table.add_column(column)
        keys = dict.fromkeys((result["recipe"], result["model"]) for result in own)
        for recipe, model in keys:
            lines = {r["case"]: r for r in own if (r["recipe"], r["model"]) == (recipe, model)}
            ours = {r["case"]: r for r in own if r["model"] == OURS and r["recipe"] == (recipe or "default")}
            values = [_mean([_macro_f1(line, task, sets) for line in lines.values()]) for task in tasks]
            routing = [line["routing"]["accuracy"] for line in lines.values() if line.get("routing")]
            both = [case for case in lines if case in ours]
            table.add_row(
                recipe or "–",
                model,
                str(len(lines)),
                *(f"{value:.3f}" for value in values),
                f"{_mean(values):.4f}",
                _difference([ours[c] for c in both], [lines[c] for c in both], tasks, sets)
                if both and model != OURS
                else "",
                f"{_mean(routing):.3f}" if routing else "",
                f"{_mean([line['minutes'] for line in lines.values()]):.1f}",
            )
        Console(width=190).print(table)
        _print_scores(own, keys)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _macro_f1(line: Result, task: str, sets: Labels) -> float:
    return _f1(*_confusable(line, task, sets))


def _confusable(line: Result, task: str, sets: Labels) -> tuple[np.ndarray, np.ndarray, int]:
    true, predicted = line["predictions"][task]
    predictions = TaskPredictions.from_labels(true, predicted, sets[task])
    return predictions.true, predictions.predicted[0], predictions.classes


def _f1(true: np.ndarray, predicted: np.ndarray, classes: int) -> float:
    """Macro-F1 of labels (N,) over the classes that occur in either."""
    table = np.bincount(true * (classes + 1) + predicted, minlength=(classes + 1) ** 2).reshape(classes + 1, -1)
    both = (table.sum(0) + table.sum(1))[:classes]  # (K,)
    hits = np.diag(table)[:classes]
    return float((2 * hits[both > 0] / both[both > 0]).mean())


def _difference(ours: Sequence[Result], theirs: Sequence[Result], tasks: Sequence[str], sets: Labels) -> str:
    """Mean difference of macro-F1 in points, with an interval over rows and seeds, both resampled."""
    rng = np.random.default_rng(0)
    pairs = [
        [(_confusable(a, task, sets), _confusable(b, task, sets)) for task in tasks]
        for a, b in zip(ours, theirs, strict=True)
    ]
    values = [[_f1(*a) - _f1(*b) for a, b in pair] for pair in pairs]
    draws = []
    for _ in range(DRAWS):
        rows = [rng.integers(0, len(pairs[0][i][0][0]), len(pairs[0][i][0][0])) for i in range(len(tasks))]
        chosen = rng.integers(0, len(pairs), len(pairs))
        sample = [
            _f1(a[0][row], a[1][row], a[2]) - _f1(b[0][row], b[1][row], b[2])
            for k in chosen
            for (a, b), row in zip(pairs[k], rows, strict=True)
        ]
        draws.append(np.mean(sample))
    low, high = np.percentile(draws, [2.5, 97.5])
    return f"{100 * np.mean(values):+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"


def _print_scores(results: Sequence[Result], keys: Mapping[tuple[str, str], None]) -> None:
    """Print the error and the correlations of predicted scores, mean over seeds."""
    table = Table(title="scores", title_justify="left")
    names = ("mse", "mae", "pearson", "cosine")
    for column in ("recipe", "model", "set", *names):
        table.add_column(column)
    for recipe, model in keys:
        lines = [r for r in results if (r["recipe"], r["model"]) == (recipe, model)]
        for task in dict.fromkeys(task for line in lines for task in line.get("scores", {})):
            reports = [regression(*map(np.asarray, line["scores"][task])) for line in lines]
            values = [
                np.mean([np.nan if (v := report.value(name)) is None else v for report in reports]) for name in names
            ]
            table.add_row(recipe or "–", model, task, *(f"{value:.3f}" for value in values))
    if table.row_count:
        Console(width=190).print(table)
