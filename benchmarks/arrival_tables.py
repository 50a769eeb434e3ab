"""Tables of `arrivals.py`, with paired intervals by a bootstrap over test rows and over runs (seeds and orders)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from predictions import format_points, read_lines
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import Interval

CEILING, CHANCE_TASK = "pooled", "stocknet"
"""The row that others are compared with, and the task whose labels can hardly be predicted from its texts."""
DRAWS, LEVEL = 2000, 0.95


@dataclass(frozen=True)
class Run:
    """One way of adding domains, with one seed and in one order.

    Args:
        order: names of the domains.
        lines: saved results by arrival, counted from 1.
    """

    order: tuple[str, ...]
    lines: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def last(self) -> dict[str, Any] | None:
        """The result after the last arrival, if it was measured."""
        return self.lines.get(len(self.order))


Key = tuple[int, int]
"""Seed and number of the order."""
Runs = dict[Key, Run]
Term = tuple[str, float, Sequence[int], Sequence[int] | None]
"""A task, its weight, and one or two predictions of its test rows (N,), of which the first minus the second counts."""


def read_runs(out: Path) -> dict[str, Runs]:
    """Read the results in a folder and its sub-folders, by row; pinned predictions count as another row."""
    rows: dict[str, Runs] = {}
    for path in sorted(out.rglob("results-*.jsonl")):
        for line in read_lines(path):
            variants = {line["row"]: line}
            if line.get("pinned") is not None:
                variants[f"{line['row']}, pinned"] = line | {"predictions": line["pinned"], "routing": None}
            for name, its in variants.items():
                runs = rows.setdefault(name, {})
                run = runs.setdefault((its["seed"], its["number"]), Run(tuple(its["order"])))
                run.lines[its["arrival"]] = its
    return _shared_ceiling(rows)


def _shared_ceiling(rows: dict[str, Runs]) -> dict[str, Runs]:
    """Let runs in other orders share a seed's ceiling of all domains, which does not depend on their order."""
    ceilings = rows.get(CEILING, {})
    last = {seed: run.last for (seed, _), run in ceilings.items() if run.last is not None}
    for runs in [runs for name, runs in rows.items() if name != CEILING]:
        for key, run in runs.items():
            line = last.get(key[0])
            if line is not None and set(line["order"]) == set(run.order):
                ceiling = ceilings.setdefault(key, Run(run.order))
                ceiling.lines.setdefault(len(run.order), line)
    return rows


class Bootstrap:
    """Macro-F1 on resampled rows, the same resamples for every model, and intervals of what is averaged over runs.

    Args:
        true: labels (N,) by task, as positions in the task's labels.
        classes: number of labels by task.
    """

    def __init__(self, true: Mapping[str, np.ndarray], classes: Mapping[str, int]) -> None:
        self.true, self.classes = true, classes
        self.counts = {task: self._resample(len(labels), i) for i, (task, labels) in enumerate(sorted(true.items()))}
        self._cache: dict[tuple[str, bytes], np.ndarray] = {}

    @staticmethod
    def _resample(rows: int, seed: int) -> np.ndarray:
        """How often each row is drawn, (1 + DRAWS, N); the first draw is every row once."""
        draws = np.random.default_rng(seed).multinomial(rows, np.full(rows, 1 / rows), DRAWS)
        return np.concatenate([np.ones((1, rows)), draws]).astype(np.float32)

    def macro_f1(self, task: str, predicted: Sequence[int]) -> np.ndarray:
        """Macro-F1 (1 + DRAWS,) of predictions (N,)."""
        labels = np.asarray(predicted, dtype=np.int16)
        key = task, labels.tobytes()
        if key not in self._cache:
            names = np.arange(self.classes[task])
            is_true, is_predicted = self.true[task][:, None] == names, labels[:, None] == names  # (N, K)
            support, predictions, hits = (
                self.counts[task] @ part.astype(np.float32) for part in (is_true, is_predicted, is_true & is_predicted)
            )  # (1 + DRAWS, K)
            self._cache[key] = (2 * hits / np.maximum(support + predictions, 1)).mean(1)
        return self._cache[key]

    def interval(self, runs: Sequence[Sequence[Term]]) -> Interval:
        """Mean over runs of their weighted sums, with an interval over rows and runs."""
        values = np.stack([self._weighted_sum(terms) for terms in runs])  # (R, 1 + DRAWS)
        chosen = np.random.default_rng(0).integers(0, len(runs), (DRAWS, len(runs)))  # (DRAWS, R)
        draws = values[chosen, np.arange(1, DRAWS + 1)[:, None]].mean(1)  # (DRAWS,)
        low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Interval(float(values[:, 0].mean()), float(low), float(high))

    def _weighted_sum(self, terms: Sequence[Term]) -> np.ndarray:
        total = np.zeros(1 + DRAWS)
        for task, weight, ours, theirs in terms:
            minus = 0.0 if theirs is None else self.macro_f1(task, theirs)
            total += weight * (self.macro_f1(task, ours) - minus)
        return total


def print_results(out: Path, space: LabelSpace) -> None:
    """Print the last means, every arrival, the differences from the ceiling, and the domains at the end."""
    rows = read_runs(out)
    lines = [line for runs in rows.values() for run in runs.values() for line in run.lines.values()]
    if not lines:
        return print("no results yet")
    true: dict[str, np.ndarray] = {}
    for line in lines:
        for task, (labels, _) in line["predictions"].items():
            assert task not in true or np.array_equal(true[task], labels), f"other test rows of {task}"
            true[task] = np.asarray(labels)
    tables = Tables(rows, space, Bootstrap(true, {task: len(labels) for task, labels in space.tasks.items()}))
    console = Console(width=230)
    for table in (tables.last_means(), tables.differences(), tables.arrivals(), tables.domains()):
        console.print(table)
    seeds, orders = ({key[i] for runs in rows.values() for key in runs} for i in (0, 1))
    console.print(f"seeds {sorted(seeds)}, orders {sorted(orders)}; 95 % intervals over test rows and runs")
    return None


@dataclass(frozen=True)
class Tables:
    """The tables of all rows.

    Args:
        rows: runs by row.
        space: the tasks of all domains.
        bootstrap: of their test rows.
    """

    rows: Mapping[str, Runs]
    space: LabelSpace
    bootstrap: Bootstrap

    @property
    def ceiling(self) -> Runs:
        """The runs of the ceiling."""
        return self.rows.get(CEILING, {})

    def last_means(self) -> Table:
        """After the last arrival: means, what old domains lost, and what an arrival took."""
        table = Table(title="after the last arrival: macro-F1, points; an arrival: mean without the first")
        for column in (
            *("row", "runs", "ranks", "last mean", "95 %", f"without {CHANCE_TASK}", "old domains lost", "95 %"),
            *("old labels kept", "seconds", "rows read", "old rows", "last: seconds / ceiling", "rows read / ceiling"),
            "right domain",
        ):
            table.add_column(column)
        for name, runs in self.rows.items():
            finished = [run for run in runs.values() if run.last is not None]
            if not finished:
                continue
            means = [self._mean(run.last, run.order) for run in finished if run.last]
            mean, without = self.bootstrap.interval(means), self.bootstrap.interval([*map(_without_chance, means)])
            complete = [run for run in finished if len(run.lines) == len(run.order)]
            lost = self.bootstrap.interval([self._lost(run) for run in complete]) if complete else None
            later = [line for run in finished for k, line in run.lines.items() if k > 1]
            table.add_row(
                name,
                str(len(finished)),
                f"{np.mean([run.last['rank'] for run in finished if run.last]):.0f}",
                f"{100 * mean.value:.2f}",
                f"{100 * mean.low:.1f} to {100 * mean.high:.1f}",
                f"{100 * without.value:.2f}",
                *(["", ""] if lost is None else _points_and_bounds(lost)),
                _kept(complete),
                *(f"{np.mean([line[key] for line in later]):,.0f}" for key in ("seconds", "rows_read", "old_rows")),
                *(self._ratio(runs, key) for key in ("seconds", "rows_read")),
                _mean_or_blank([run.last["routing"] for run in finished if run.last]),
            )
        return table

    def differences(self) -> Table:
        """Differences from the ceiling and from a fresh LoRA for each domain, on the runs that both have."""
        table = Table(title="macro-F1 minus another row's, points, 95 %, paired by row and run")
        for column in (
            "row",
            "minus",
            "runs",
            "last mean",
            f"without {CHANCE_TASK}",
            "last new domain",
            "all new domains",
        ):
            table.add_column(column)
        for name, runs in self.rows.items():
            for other in (CEILING, "fresh", "replay"):
                theirs = self.rows.get(other, {})
                keys = [key for key, run in runs.items() if run.last and key in theirs and theirs[key].last]
                if name in (other, CEILING) or not keys:
                    continue
                pairs = [(runs[key], theirs[key]) for key in keys]
                means = [self._mean(a.last, a.order, b.last) for a, b in pairs if a.last and b.last]
                new_domains = [self._mean(a.last, a.order[-1:], b.last) for a, b in pairs if a.last and b.last]
                each = [self._new_domains(a, b) for a, b in pairs if len(a.lines) == len(a.order)]
                cells = [format_points(self.bootstrap.interval(terms)) for terms in (means, new_domains, each) if terms]
                without = format_points(self.bootstrap.interval([*map(_without_chance, means)]))
                table.add_row(name, other, str(len(keys)), cells[0], without, *cells[1:])
        return table

    def arrivals(self) -> Table:
        """Mean macro-F1 over the domains so far, and seconds, after each arrival."""
        table = Table(title="after each arrival: mean macro-F1 over the domains so far, points (seconds)")
        most = max(len(run.order) for runs in self.rows.values() for run in runs.values())
        for column in ("row", "order", *(str(k) for k in range(1, most + 1))):
            table.add_column(column)
        for name, runs in self.rows.items():
            for number in sorted({key[1] for key in runs}):
                same = [run for key, run in runs.items() if key[1] == number]
                order = same[0].order
                cells = []
                for k in range(1, len(order) + 1):
                    lines = [run.lines[k] for run in same if k in run.lines]
                    means = [self._mean(line, order[:k]) for line in lines]
                    value = 100 * self.bootstrap.interval(means).value if means else 0.0
                    seconds = np.mean([line["seconds"] for line in lines]) if lines else 0.0
                    cells.append(f"{value:.1f} ({seconds:,.0f})" if lines else "")
                table.add_row(name, ", ".join(order), *cells)
        return table

    def domains(self) -> Table:
        """Macro-F1 of each domain right after its arrival and at the end."""
        table = Table(title="macro-F1 by domain, points: after its arrival → at the end")
        names = list(dict.fromkeys(self.space.domain_by_task.values()))
        for column in ("row", *names):
            table.add_column(column)
        for name, runs in self.rows.items():
            finished = [run for run in runs.values() if run.last]
            cells = []
            for domain in names if finished else ():
                first = [
                    self._mean(run.lines[k], [domain])
                    for run in finished
                    if (k := run.order.index(domain) + 1) in run.lines
                ]
                last = [self._mean(run.last, [domain]) for run in finished if run.last]
                values = [f"{100 * self.bootstrap.interval(side).value:.1f}" if side else "" for side in (first, last)]
                cells.append(" → ".join(values))
            table.add_row(name, *cells)
        return table

    def _mean(
        self, line: Mapping[str, Any] | None, domains: Sequence[str], other: Mapping[str, Any] | None = None
    ) -> list[Term]:
        """Terms of the mean over domains of one result, or of its difference from another one."""
        assert line is not None
        terms: list[Term] = []
        for domain in domains:
            tasks = self.space.tasks_of(domain)
            for task in tasks:
                theirs = None if other is None else other["predictions"][task][1]
                terms.append((task, 1 / len(domains) / len(tasks), line["predictions"][task][1], theirs))
        return terms

    def _lost(self, run: Run) -> list[Term]:
        """Terms of what all domains but the last lost since they arrived."""
        old = run.order[:-1]
        parts = [self._mean(run.lines[k], [domain], run.last) for k, domain in enumerate(old, 1)]
        return [
            (task, weight / max(1, len(old)), ours, theirs) for part in parts for task, weight, ours, theirs in part
        ]

    def _new_domains(self, run: Run, other: Run) -> list[Term]:
        """Terms of the mean difference, over all domains but the first, right after the domain's arrival."""
        new = run.order[1:]
        parts = [self._mean(run.lines[k], [domain], other.last) for k, domain in enumerate(new, 2)]
        return [
            (task, weight / max(1, len(new)), ours, theirs) for part in parts for task, weight, ours, theirs in part
        ]

    def _ratio(self, runs: Runs, key: str) -> str:
        """Cost of the last arrival relative to the ceiling's."""
        ratios = [
            run.last[key] / ceiling[key]
            for name, run in runs.items()
            if run.last and (ceiling := self.ceiling.get(name, Run(())).last)
        ]
        return f"{np.mean(ratios):.1%}" if ratios else ""


def _without_chance(terms: Sequence[Term]) -> list[Term]:
    """The same mean without the chance task, which is a domain of its own; unchanged if that is all there is."""
    others = [term for term in terms if term[0] != CHANCE_TASK] or list(terms)
    total = sum(weight for _, weight, _, _ in others)
    return [(task, weight / total, ours, theirs) for task, weight, ours, theirs in others]


def _kept(runs: Sequence[Run]) -> str:
    """How many test rows of old domains have the label at the end that they had after their domain's arrival."""
    same = total = 0
    for run in runs:
        for k in range(1, len(run.order)):
            for task in run.lines[k]["predictions"].keys() - (
                run.lines[k - 1]["predictions"].keys() if k > 1 else set()
            ):
                before, after = (line["predictions"][task][1] for line in (run.lines[k], run.last or {}))
                same += int(np.sum(np.asarray(before) == np.asarray(after)))
                total += len(before)
    return f"{same:,} of {total:,}" if total else ""


def _points_and_bounds(interval: Interval) -> list[str]:
    value, low, high = (f"{100 * bound:+.2f}" for bound in (interval.value, interval.low, interval.high))
    return [value, f"{low} to {high}"]


def _mean_or_blank(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{np.mean(known):.3f}" if known else ""
