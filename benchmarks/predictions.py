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
    """Return the results of all seeds so far, in the folder and its sub-folders."""
    paths = sorted(out.rglob("results-*.jsonl"), key=lambda path: (path.name, path))
    return [_with_predictions(result) for path in paths for result in read_lines(path)]


def predictions_by_task(results: Sequence[SavedResult], space: LabelSpace) -> dict[str, TaskPredictions]:
    """Return one model's predictions of all seeds, by task."""
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
    ours: Mapping[str, list[TaskPredictions]], theirs: Mapping[str, list[TaskPredictions]] | None = None
) -> Interval:
    """Return the mean macro-F1 over domains, or its difference from another model's, with an interval.

    A task weighs 1 / (domains · tasks of its domain), so a domain weighs the same however many tasks it has.
    """
    repeats = int(np.lcm.reduce([len(tasks) for tasks in ours.values()]))
    mine, others = (
        [task for tasks in side.values() for task in tasks * (repeats // len(tasks))] for side in (ours, theirs or {})
    )
    return (bootstrap_differences(mine, others) if theirs else bootstrap_intervals(mine))["macro_f1"]


def print_domains(out: Path, space: LabelSpace, models: Mapping[str, str], ours: str) -> None:
    """Print macro-F1 by domain and its mean over domains, then the differences of our model from the others.

    Args:
        models: title by name, in the order of the rows.
        ours: name of our model.
    """
    saved = read_all_results(out)
    domains = list(dict.fromkeys(space.domain_by_task.values()))
    results = {name: [result for result in saved if result["model"] == name] for name in models}
    results = {name: seeds for name, seeds in results.items() if seeds}
    table = Table(title="test rows: macro-F1 (accuracy), mean over seeds", title_justify="left")
    for column in ("model", "seeds", *domains, "mean macro-F1", "95 %", "right domain", "validation"):
        table.add_column(column)
    for name, seeds in results.items():
        groups = group_by_domain(predictions_by_task(seeds, space), space)
        metrics = {domain: bootstrap_intervals(tasks) for domain, tasks in groups.items()}
        mean = mean_over_domains(groups)
        routing = [result["routing"] for result in seeds if result["routing"] is not None]
        validation = [result["validation"] for result in seeds if result.get("validation") is not None]
        table.add_row(
            models[name],
            str(len(seeds)),
            *(f"{metrics[d]['macro_f1'].value:.3f} ({metrics[d]['accuracy'].value:.3f})" for d in domains),
            f"{np.mean([metrics[d]['macro_f1'].value for d in domains]):.4f}",
            f"{mean.low:.3f} to {mean.high:.3f}",
            f"{np.mean(routing):.3f}" if routing else "",
            f"{np.mean(validation):.4f}" if validation else "",
        )
    Console(width=170).print(table)
    if ours in results:
        print_differences({models[name]: seeds for name, seeds in results.items()}, models[ours], space, domains)


def print_differences(
    results: Mapping[str, Sequence[SavedResult]], ours: str, space: LabelSpace, domains: list[str]
) -> None:
    """Print our macro-F1 minus each other model's, on the seeds that both have."""
    table = Table(title=f"macro-F1 of {ours!r} minus another model's, points, 95 %", title_justify="left")
    for column in ("minus", "seeds", *domains, "mean"):
        table.add_column(column)
    for name, theirs in results.items():
        shared = sorted({result["seed"] for result in theirs} & {result["seed"] for result in results[ours]})
        if name == ours or not shared:
            continue
        sides = [
            group_by_domain(predictions_by_task([result for result in side if result["seed"] in shared], space), space)
            for side in (results[ours], theirs)
        ]
        differences = [bootstrap_differences(sides[0][domain], sides[1][domain])["macro_f1"] for domain in domains]
        cells = [format_points(difference, 1) for difference in differences]
        table.add_row(name, str(len(shared)), *cells, format_points(mean_over_domains(*sides)))
    Console(width=170).print(table)


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
