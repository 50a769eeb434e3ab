"""Tables of accuracy by one set of rules, for benchmarks that compare models on several domains.

Every table has the mean with and without the tasks at chance level. Differences are paired by row and by seed, and
intervals resample both. The two main models need at least eight seeds; with fewer, the table says so.
"""

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from predictions import SavedResult, format_points, group_by_domain, mean_over_domains, predictions_by_task
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import Interval, TaskPredictions

CHANCE_TASKS = ("stocknet",)
"""Tasks of configs/real/five_domains.yaml on which every model is near chance level."""
MAIN_SEEDS = 8
"""Fewest seeds of the two main models."""
Groups = dict[str, list[TaskPredictions]]
"""By domain: predictions of its tasks, of all seeds."""


def without_tasks(groups: Mapping[str, TaskPredictions], tasks: Collection[str]) -> dict[str, TaskPredictions]:
    """Return predictions by task without those of some tasks."""
    return {task: predictions for task, predictions in groups.items() if task not in tasks}


def of_seeds(results: Sequence[SavedResult], seeds: Collection[int]) -> list[SavedResult]:
    """Return one model's results of some seeds, ordered by seed, so that two models' results can be paired."""
    return sorted((result for result in results if result["seed"] in seeds), key=lambda result: int(result["seed"]))


def seeds_of(results: Sequence[SavedResult]) -> list[int]:
    """Return the seeds of one model's results, in order."""
    return sorted({int(result["seed"]) for result in results})


def means(
    ours: Sequence[SavedResult], theirs: Sequence[SavedResult] | None, space: LabelSpace, chance: Collection[str]
) -> dict[str, Interval]:
    """Return macro-F1, or our macro-F1 minus theirs, by domain, and the means over domains with and without chance.

    Args:
        ours: results of one model.
        theirs: results of another one with the same seeds; None for the model's own macro-F1.
        chance: tasks at chance level.

    Returns:
        intervals over rows and seeds, by domain, then `mean` and `mean without chance level`.
    """
    sides = [predictions_by_task(of_seeds(side, seeds_of(side)), space) for side in (ours, theirs) if side is not None]
    groups = [group_by_domain(side, space) for side in sides]
    others = [group_by_domain(without_tasks(side, chance), space) for side in sides]
    parts = {domain: [{domain: side[domain]} for side in groups] for domain in groups[0]}
    parts |= {"mean": groups} | ({"mean without chance level": others} if chance and others[0] else {})
    return {name: mean_over_domains(*part, resample_seeds=True) for name, part in parts.items()}


def print_accuracy(
    results: Sequence[SavedResult],
    space: LabelSpace,
    titles: Mapping[str, str],
    main: tuple[str, str],
    chance: Collection[str] = CHANCE_TASKS,
) -> None:
    """Print macro-F1 by domain and the differences of the first main model from the others.

    Args:
        titles: title by name of a model, in the order of the rows; models without results are left out.
        main: names of the two main models.
        chance: tasks at chance level.
    """
    by_model = {name: [result for result in results if result["model"] == name] for name in titles}
    by_model = {name: own for name, own in by_model.items() if own}
    if not by_model:
        print("no results yet")
        return
    table = Table(title="test macro-F1, mean over seeds; 95 % over rows and seeds", title_justify="left")
    rows = {name: means(own, None, space, chance) for name, own in by_model.items()}
    for column in ("model", "seeds", *next(iter(rows.values())), "right domain", "validation"):
        table.add_column(column)
    for name, intervals in rows.items():
        own = by_model[name]
        others = (_mean_of([result.get(key) for result in own], digits) for key, digits in EXTRA)
        cells = [format_interval(interval) for interval in intervals.values()]
        table.add_row(titles[name], str(len(seeds_of(own))), *cells, *others)
    console = Console(width=200)
    console.print(table)
    if main[0] in by_model:
        console.print(build_differences(by_model, space, titles, main[0], chance))
    for name in main:
        seeds = seeds_of(by_model.get(name, []))
        if len(seeds) < MAIN_SEEDS:
            console.print(f"{titles.get(name, name)}: {len(seeds)} seeds so far, fewer than {MAIN_SEEDS}: preliminary")
    console.print(f"seeds: {', '.join(map(str, seeds_of(results)))}; chance level: {', '.join(chance) or 'no task'}")


EXTRA = (("routing", 3), ("validation", 4))
"""Other values of a result that tables show, with their digits."""


def build_differences(
    by_model: Mapping[str, Sequence[SavedResult]],
    space: LabelSpace,
    titles: Mapping[str, str],
    ours: str,
    chance: Collection[str],
) -> Table:
    """Return a table of our macro-F1 minus each other model's, on the seeds that both have."""
    title = f"macro-F1 of {titles[ours]!r} minus another model's, points, 95 % over rows and seeds"
    table = Table(title=title, title_justify="left")
    table.add_column("minus")
    table.add_column("seeds")
    for name, theirs in by_model.items():
        shared = sorted(set(seeds_of(theirs)) & set(seeds_of(by_model[ours])))
        if name == ours or not shared:
            continue
        differences = means(of_seeds(by_model[ours], shared), of_seeds(theirs, shared), space, chance)
        if len(table.columns) == 2:
            for column in differences:
                table.add_column(column)
        cells = [format_points(difference) for difference in differences.values()]
        table.add_row(titles[name], str(len(shared)), *cells)
    return table


def format_interval(interval: Interval) -> str:
    """Format a metric and its interval."""
    return f"{interval.value:.4f} ({interval.low:.3f} to {interval.high:.3f})"


def _mean_of(values: Sequence[float | None], digits: int) -> str:
    """Mean of those values that are not None; empty without any."""
    measured = [value for value in values if value is not None]
    return f"{np.mean(measured):.{digits}f}" if measured else ""
