"""Predictions of test rows: appended to a file per seed, one line per model, and printed as tables.

Benchmarks that train for hours resume from these files; each defines its own models.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences, bootstrap_intervals

LabelPairs = dict[str, tuple[list[str], list[str]]]
"""By task: true labels and predicted labels of the same rows."""
SavedResult = dict[str, Any]
"""A line of a results file: `model`, `seed`, `predictions` (`LabelPairs`), `routing` and `validation`."""


@dataclass(frozen=True)
class TestResult:
    """Predictions of a model for the test rows.

    Args:
        pairs: true and predicted labels.
        routing: share of rows whose domain the router finds; None without a router.
        validation: mean macro-F1 on validation rows; None if it was not measured.
    """

    pairs: LabelPairs
    routing: float | None = None
    validation: float | None = None


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Append an object to a file of JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a file of JSON lines; none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def append_result(out: Path, seed: int, model: str, result: TestResult) -> None:
    """Append a model's result to the file of its seed, so that a stopped benchmark can resume."""
    line: SavedResult = {
        "model": model,
        "seed": seed,
        "predictions": result.pairs,
        "routing": result.routing,
        "validation": result.validation,
    }
    append_line(out / f"results-{seed}.jsonl", line)


def read_results(out: Path, seed: int) -> list[SavedResult]:
    """Return the results of a seed so far."""
    return [_with_predictions(result) for result in read_lines(out / f"results-{seed}.jsonl")]


def _with_predictions(result: SavedResult) -> SavedResult:
    if "predictions" not in result:  # earlier versions used another key, for the only value that is an object
        result["predictions"] = next(value for value in result.values() if isinstance(value, dict))
    return result


def read_all_results(out: Path) -> list[SavedResult]:
    """Return the results of all seeds so far, in the folder and below it, where processes that ran in parallel wrote.

    Of several results of a model and seed, only the first counts.
    """
    results: dict[tuple[int, str], SavedResult] = {}
    for path in sorted(out.rglob("results-*.jsonl")):
        for result in read_results(path.parent, int(path.stem.split("-")[1])):
            results.setdefault((result["seed"], result["model"]), result)
    return [results[key] for key in sorted(results, key=lambda key: key[0])]


def predictions_by_task(results: Sequence[SavedResult], space: LabelSpace) -> dict[str, TaskPredictions]:
    """Return one model's predictions of all seeds, by task, in the order of the results."""
    tasks = results[0]["predictions"]
    return {task: join_seeds([result["predictions"][task] for result in results], space.tasks[task]) for task in tasks}


def join_seeds(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> TaskPredictions:
    """Join the true and predicted labels of several seeds; all seeds predict the same rows."""
    seeds = [TaskPredictions.from_labels(true, predicted, labels) for true, predicted in pairs]
    return TaskPredictions(seeds[0].true, np.concatenate([seed.predicted for seed in seeds]), len(labels))


def format_points(difference: Interval, digits: int = 2) -> str:
    """Format a difference and its interval in points."""
    bounds = (difference.value, difference.low, difference.high)
    value, low, high = (f"{100 * bound:+.{digits}f}" for bound in bounds)
    return f"{value} ({low} to {high})"


def group_by_domain(tasks: Mapping[str, TaskPredictions], space: LabelSpace) -> dict[str, list[TaskPredictions]]:
    """Group the predictions of tasks by domain."""
    groups: dict[str, list[TaskPredictions]] = {}
    for task, predictions in tasks.items():
        groups.setdefault(space.domain_by_task[task], []).append(predictions)
    return groups


def mean_over_domains(
    ours: Mapping[str, list[TaskPredictions]],
    theirs: Mapping[str, list[TaskPredictions]] | None = None,
    *,
    metric: str = "macro_f1",
    resample_seeds: bool = False,
) -> Interval:
    """Return the mean metric over domains, or its difference from another model's, with an interval.

    A task weighs 1 / (domains · tasks of its domain), so a domain weighs the same however many tasks it has.

    Args:
        metric: `macro_f1`, `accuracy` or `weighted_f1`.
        resample_seeds: the interval covers seeds as well as rows.
    """
    repeats = int(np.lcm.reduce([len(tasks) for tasks in ours.values()]))
    mine, others = (
        [task for tasks in side.values() for task in tasks * (repeats // len(tasks))] for side in (ours, theirs or {})
    )
    if not theirs:
        return bootstrap_intervals(mine, resample_seeds=resample_seeds)[metric]
    return bootstrap_differences(mine, others, resample_seeds=resample_seeds)[metric]


def print_tasks(out: Path, space: LabelSpace, models: Mapping[str, str]) -> None:
    """Print each model's accuracy with its interval, macro-F1 and weighted F1, by task, as means over seeds.

    Args:
        models: title by name.
    """
    results = read_all_results(out)
    table = Table(title="test rows by task, mean over seeds", title_justify="left")
    for column in ("model", "seeds", "task", "rows", "accuracy", "95 %", "macro-F1", "weighted F1"):
        table.add_column(column)
    for model in dict.fromkeys(result["model"] for result in results):
        seeds = [result for result in results if result["model"] == model]
        for task, predictions in predictions_by_task(seeds, space).items():
            metrics = bootstrap_intervals([predictions])
            accuracy = metrics["accuracy"]
            table.add_row(
                models.get(model, model),
                str(len(seeds)),
                task,
                str(len(predictions.true)),
                f"{accuracy.value:.3f}",
                f"{accuracy.low:.3f} to {accuracy.high:.3f}",
                f"{metrics['macro_f1'].value:.3f}",
                f"{metrics['weighted_f1'].value:.3f}",
            )
    Console(width=170).print(table)
