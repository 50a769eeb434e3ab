"""Accuracy with few labelled rows: a fresh shared expert against one that starts from the ready mixture, paired by row.

Run: `python benchmarks/few_rows.py FOLDER`, with fpb.csv and stockemotions.csv in FOLDER. The ready mixture was trained
on neither. It resumes where it stopped, and prints the results so far. About 30 minutes on one core.

A fifth of the rows of each class select the best weights, and are part of the count.
"""

import argparse
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from predictions import append_line, read_lines
from rich.console import Console
from rich.table import Table

from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences, bootstrap_intervals
from moe.checkpoints.expert import load_single_expert
from moe.config.run import RunSettings, parse_run
from moe.evaluation.evaluate import evaluate
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_shared

SEEDS = (13, 42, 87)
SIZES = (16, 64, 256, 1000)
TEST_ROWS, MAX_STEPS, EPOCHS, BATCH = 1000, 150, 20, 16
LABELS = {"fpb": ("negative", "neutral", "positive"), "stockemotions": ("negative", "positive")}
FRESH, UNTRAINED = "fresh", "untrained"
"""Starts of results: a fresh expert, and the ready one without any training. Others are values of `--init`."""
Row = dict[str, str]
Result = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One training.

    Args:
        data: name of the data set.
        size: rows per class, or all that there are; 0 trains nothing.
        seed: of the training rows and of training.
        start: `fresh`, or what the shared expert starts from.
    """

    data: str
    size: int
    seed: int
    start: str

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.data}-{self.size}-{self.seed}-{self.start.replace('/', '_')}"


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the two files")
    parser.add_argument("--out", type=Path, default=Path("runs/few_rows"))
    parser.add_argument("--init", default="ready", help="what the shared expert starts from, as shared.init")
    parser.add_argument("--data", nargs="*", default=list(LABELS), choices=list(LABELS))
    parser.add_argument("--sizes", type=int, nargs="*", default=SIZES, help="rows per class")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--max-length", type=int, default=96, help="that of the ready mixture")
    parser.add_argument("--trunk-depth", type=int, default=0, help="that of the ready mixture")
    parser.add_argument("--print-only", action="store_true")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    if not args.print_only:
        finished = {result["name"] for result in read_lines(results)}
        for case in cases(args):
            if case.name not in finished:
                append_line(results, measure(case, args))
    rows = summarize(read_lines(results), args)
    if args.json:
        print(json.dumps(rows))
    else:
        print_table(rows)


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Yield all trainings, small ones first; the ready expert without training is the same for all seeds."""
    for data in args.data:
        yield Case(data, 0, args.seeds[0], args.init)
    for size in args.sizes:
        for seed in args.seeds:
            for data in args.data:
                for start in (FRESH, args.init):
                    yield Case(data, size, seed, start)


def measure(case: Case, args: argparse.Namespace) -> Result:
    """Train on a few rows and predict the test rows."""
    labels, folder = LABELS[case.data], args.out / case.name
    rows = select_rows(read_rows(args.folder / f"{case.data}.csv", labels), case, labels)
    file = write_rows(folder / "rows.csv", rows)
    work = Workspace(settings(case, args, file, sum(row["split"] == "train" for row in rows)), folder / "run")
    model, run = load_single_expert(train_shared(work, overwrite=True))
    _, predictions = evaluate(model, work.rows("test"), run.template, run.backbone.resolved_length)
    counts = {label: sum(row["label"] == label and row["split"] != "test" for row in rows) for label in labels}
    return {
        "name": case.name,
        "data": case.data,
        "size": case.size,
        "seed": case.seed,
        "start": UNTRAINED if case.size == 0 else case.start,
        "rows": counts if case.size else dict.fromkeys(labels, 0),
        "true": [row.true for row in predictions],
        "predicted": [row.masked.label for row in predictions],
    }


def settings(case: Case, args: argparse.Namespace, file: Path, train_rows: int) -> RunSettings:
    """Return the settings of one training: the same steps for both; a trained expert learns at a lower rate."""
    fresh = case.start == FRESH
    shared: dict[str, Any] = {"r": 16, "alpha": 32, "dropout": 0.0}
    if not fresh:
        shared = {"init": case.start, "frozen": case.size == 0}
    rate = 1e-3 if fresh else 3e-4
    steps = min(MAX_STEPS, max(1, EPOCHS * train_rows // BATCH))
    stage = {"steps": steps, "batch_size": BATCH, "lr": rate, "head_lr": rate, "evals": 3, "patience": 3}
    raw = {
        "seed": case.seed,
        "backbone": {"trunk_depth": args.trunk_depth, "max_length": args.max_length, "dtype": "float32"},
        "data": {"near_duplicates": None, "max_rejected": 0.05},
        "domains": {"own": {"file": str(file.resolve()), "labels": list(LABELS[case.data])}},
        "shared": shared,
        "stages": {"shared": stage},
        "track": [],
    }
    return parse_run(raw, case.name)


def read_rows(path: Path, labels: Sequence[str]) -> list[Row]:
    """Read the rows of a data set in a fixed random order, with their own test split, or one drawn from all rows."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["label"] in labels]
    Random(13).shuffle(rows)
    own = any(row["split"] == "test" for row in rows)
    test = [row["id"] for row in rows if row["split"] == "test" or not own][:TEST_ROWS]
    names = set(test)
    usable = [row for row in rows if row["split"] != "validation"]
    return [row | {"split": "test" if row["id"] in names else ""} for row in usable]


def select_rows(rows: Sequence[Row], case: Case, labels: Sequence[str]) -> list[Row]:
    """Return all test rows, and a few others of each class: four fifths to train on, the others for validation."""
    selected = [row for row in rows if row["split"] == "test"]
    others = [row for row in rows if row["split"] != "test"]
    Random(case.seed).shuffle(others)
    for label in labels:
        own = [row for row in others if row["label"] == label][: case.size or 16]
        held_out = max(1, len(own) // 5)
        selected += [row | {"split": "validation" if i < held_out else "train"} for i, row in enumerate(own)]
    return selected


def write_rows(path: Path, rows: Sequence[Row]) -> Path:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ["id", "text", "label", "split"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def summarize(results: Sequence[Result], args: argparse.Namespace) -> list[Result]:
    """Return a row per data set and number of rows: metrics of both starts, and their difference, with intervals."""
    rows = []
    for data in dict.fromkeys(result["data"] for result in results):
        for size in sorted({result["size"] for result in results if result["data"] == data}):
            group = [result for result in results if (result["data"], result["size"]) == (data, size)]
            by_start = {start: [r for r in group if r["start"] == start] for start in (FRESH, args.init, UNTRAINED)}
            seeds = {result["seed"] for result in by_start[FRESH]} & {result["seed"] for result in by_start[args.init]}
            row: Result = {"data": data, "size": size, "rows": group[0]["rows"], "seeds": sorted(seeds)}
            if size == 0:
                row["ready"] = as_json(bootstrap_intervals([predictions(by_start[UNTRAINED])]))
            elif seeds:
                fresh, ready = (
                    predictions([result for result in by_start[start] if result["seed"] in seeds])
                    for start in (FRESH, args.init)
                )
                row["fresh"], row["ready"] = (as_json(bootstrap_intervals([side])) for side in (fresh, ready))
                row["difference"] = as_json(bootstrap_differences([ready], [fresh]))
            rows.append(row)
    return rows


def predictions(results: Sequence[Result]) -> TaskPredictions:
    """Predictions of one start, (S, N) for S seeds."""
    parts = [TaskPredictions.from_labels(r["true"], r["predicted"], LABELS[r["data"]]) for r in results]
    assert all(np.array_equal(part.true, parts[0].true) for part in parts), "every seed needs the same test rows"
    return TaskPredictions(parts[0].true, np.concatenate([part.predicted for part in parts]), parts[0].classes)


def as_json(intervals: dict[str, Interval]) -> dict[str, list[float]]:
    """Value and bounds of accuracy and macro-F1."""
    return {name: [intervals[name].value, *intervals[name].bounds] for name in ("accuracy", "macro_f1")}


def print_table(rows: Sequence[Result]) -> None:
    """Print the summary."""
    table = Table(title="test rows, mean over seeds, with 95 % intervals; differences in points", title_justify="left")
    for column in ("data", "rows per class", "metric", "fresh", "ready", "ready − fresh"):
        table.add_column(column)
    for row in rows:
        counts = sorted(set(row["rows"].values()))
        for metric in ("accuracy", "macro_f1"):
            cells = [_format(row.get(start, {}).get(metric), 1.0) for start in ("fresh", "ready")]
            difference = _format(row.get("difference", {}).get(metric), 100.0)
            table.add_row(row["data"], " to ".join(map(str, counts)), metric, *cells, difference)
    Console(width=140).print(table)


def _format(values: Sequence[float] | None, scale: float) -> str:
    if values is None:
        return "–"
    if scale == 1.0:
        return f"{values[0]:.3f} ({values[1]:.3f} to {values[2]:.3f})"
    return f"{scale * values[0]:+.1f} ({scale * values[1]:+.1f} to {scale * values[2]:+.1f})"


if __name__ == "__main__":
    main()
