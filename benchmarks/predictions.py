"""What models said of test rows: kept a line a model and seed, so that a measurement goes on, and printed as tables.

Used by the measurements that train for hours; which models there are is theirs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences, bootstrap_intervals

Said = dict[str, tuple[list[str], list[str]]]
"""By task: true labels, and those that were given."""


@dataclass(frozen=True)
class Found:
    """What a model said of the test rows, its share of right domains, its mean macro-F1 on validation rows."""

    said: Said
    routing: float | None = None
    validation: float | None = None


def keep(out: Path, seed: int, model: str, found: Found) -> None:
    """A line a model, so that a stopped measurement goes on."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"results-{seed}.jsonl").open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"model": model, "seed": seed} | asdict(found)) + "\n")


def read(out: Path, seed: int) -> list[dict[str, Any]]:
    """The finished models of a seed."""
    path = out / f"results-{seed}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def every(out: Path) -> list[dict[str, Any]]:
    """The finished models of all seeds."""
    return [one for path in sorted(out.glob("results-*.jsonl")) for one in read(out, int(path.stem.split("-")[1]))]


def answers(runs: Sequence[Mapping[str, Any]], space: LabelSpace) -> dict[str, TaskPredictions]:
    """By task, what the seeds of one model said of the same rows."""
    return {task: of_seeds([run["said"][task] for run in runs], space.tasks[task]) for task in runs[0]["said"]}


def of_seeds(pairs: Sequence[tuple[Sequence[str], Sequence[str]]], labels: Sequence[str]) -> TaskPredictions:
    """What several seeds said of the same rows, from each one's true and given labels."""
    each = [TaskPredictions.from_labels(true, said, labels) for true, said in pairs]
    return TaskPredictions(each[0].true, np.concatenate([one.predicted for one in each]), len(labels))


def points(x: Interval, digits: int = 2) -> str:
    """A difference with its interval, in points."""
    value, low, high = (f"{100 * one:+.{digits}f}" for one in (x.value, x.low, x.high))
    return f"{value} ({low} to {high})"


def by_domain(tasks: Mapping[str, TaskPredictions], space: LabelSpace) -> dict[str, list[TaskPredictions]]:
    """The tasks' answers, domain by domain."""
    groups: dict[str, list[TaskPredictions]] = {}
    for task, one in tasks.items():
        groups.setdefault(space.domain_by_task[task], []).append(one)
    return groups


def show(out: Path, space: LabelSpace, known: Sequence[str], ours: str) -> None:
    """Macro-F1 by domain and meaned over domains with its interval, then our differences from every other row.

    Args:
        known: the models, in the order of the rows.
        ours: of which the others are taken.
    """
    runs = every(out)
    domains = list(dict.fromkeys(space.domain_by_task.values()))
    models = [name for name in known if any(run["model"] == name for run in runs)]
    mine = {name: [run for run in runs if run["model"] == name] for name in models}
    table = Table(title="test rows: macro-F1 (accuracy), mean over seeds", title_justify="left")
    for name in ("model", "seeds", *domains, "mean macro-F1", "95 %", "right domain", "validation"):
        table.add_column(name)
    for name in models:
        groups = by_domain(answers(mine[name], space), space)
        found = {domain: bootstrap_intervals(some) for domain, some in groups.items()}
        whole = over_domains(groups)
        routing = [run["routing"] for run in mine[name] if run["routing"] is not None]
        validation = [run["validation"] for run in mine[name] if run.get("validation") is not None]
        table.add_row(
            name,
            str(len(mine[name])),
            *(f"{found[d]['macro_f1'].value:.3f} ({found[d]['accuracy'].value:.3f})" for d in domains),
            f"{np.mean([found[d]['macro_f1'].value for d in domains]):.4f}",
            f"{whole.low:.3f} to {whole.high:.3f}",
            f"{np.mean(routing):.3f}" if routing else "",
            f"{np.mean(validation):.4f}" if validation else "",
        )
    Console(width=170).print(table)
    if ours in mine:
        show_differences(mine, ours, space, domains)


def over_domains(ours: Mapping[str, list[TaskPredictions]], theirs: Mapping[str, list[TaskPredictions]] | None = None) -> Interval:
    """Mean macro-F1 over domains, or its difference, with its interval.

    Tasks count by 1 / (domains · tasks of theirs), so that a domain of two tasks weighs no more than one of one.
    """
    most = int(np.lcm.reduce([len(some) for some in ours.values()]))
    mine, others = (
        [one for some in side.values() for one in some * (most // len(some))] for side in (ours, theirs or {})
    )
    return (bootstrap_differences(mine, others) if theirs else bootstrap_intervals(mine))["macro_f1"]


def show_differences(
    mine: Mapping[str, Sequence[Mapping[str, Any]]], ours: str, space: LabelSpace, domains: list[str]
) -> None:
    """Our macro-F1 less each other row's on the seeds that both have."""
    table = Table(title=f"macro-F1 of {ours} less that of another, points, 95 %", title_justify="left")
    for name in ("less that of", "seeds", *domains, "mean"):
        table.add_column(name)
    for name, theirs in mine.items():
        both = sorted({run["seed"] for run in theirs} & {run["seed"] for run in mine[ours]})
        if name == ours or not both:
            continue
        sides = [
            by_domain(answers([run for run in runs if run["seed"] in both], space), space)
            for runs in (mine[ours], theirs)
        ]
        parts = [bootstrap_differences(sides[0][domain], sides[1][domain])["macro_f1"] for domain in domains]
        table.add_row(name, str(len(both)), *(points(x, 1) for x in parts), points(over_domains(*sides)))
    Console(width=170).print(table)


def show_tasks(out: Path, space: LabelSpace) -> None:
    """Each model's accuracy with its interval, macro-F1 and weighted F1, task by task, means of its seeds."""
    runs = every(out)
    table = Table(title="test rows, task by task, mean over seeds", title_justify="left")
    for name in ("model", "seeds", "task", "rows", "accuracy", "95 %", "macro-F1", "weighted F1"):
        table.add_column(name)
    for model in dict.fromkeys(run["model"] for run in runs):
        mine = [run for run in runs if run["model"] == model]
        for task, one in answers(mine, space).items():
            found = bootstrap_intervals([one])
            accuracy = found["accuracy"]
            table.add_row(
                model,
                str(len(mine)),
                task,
                str(len(one.true)),
                f"{accuracy.value:.3f}",
                f"{accuracy.low:.3f} to {accuracy.high:.3f}",
                f"{found['macro_f1'].value:.3f}",
                f"{found['weighted_f1'].value:.3f}",
            )
    Console(width=170).print(table)
