"""Texts longer than `backbone.max_length`: truncated, read in windows (`backbone.windows`), or read further.

No data set of long labelled documents is free to use, so documents are built from the sentences of a file with the
labels negative, neutral and positive, such as fpb.csv: one sentence decides, at a random place among neutral ones.
All models train for the same number of steps. Results are appended to a file in `--out`, and finished ones skipped.
"""

import argparse
import csv
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from moe.checkpoints.expert import load_single_expert
from moe.config.run import parse_run
from moe.evaluation.evaluate import evaluate
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain

LABELS = ("negative", "neutral", "positive")
SENTENCES = 8
Row = dict[str, str]


@dataclass(frozen=True)
class Case:
    """One row of the table: how long texts are read in training and in use; several may share a training."""

    name: str
    length: int
    trained_windows: int
    used_windows: int


def cases(length: int, longest: int) -> tuple[Case, ...]:
    """Return the rows of the table for a short and a long `max_length`."""
    return (
        Case("truncated", length, 1, 1),
        Case("truncated in training, windows in use", length, 1, 16),
        Case("windows in training and in use", length, 16, 16),
        Case("windows in training, truncated in use", length, 16, 1),
        Case("read further", longest, 1, 1),
    )


def main() -> None:
    """Train and evaluate what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the file of sentences")
    parser.add_argument("--data", default="fpb.csv", help="file with the columns text and label")
    parser.add_argument("--out", type=Path, default=Path("runs/long_texts"))
    parser.add_argument("--rows", type=int, nargs=3, default=(480, 90, 300), help="train, validation and test rows")
    parser.add_argument("--lengths", type=int, nargs=2, default=(64, 256), help="short and long max_length")
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1])
    args = parser.parse_args()
    results = args.out / "results.jsonl"
    finished = {(row["name"], row["seed"]) for row in read_results(results)}
    for seed in args.seeds:
        for case in cases(*args.lengths):
            if (case.name, seed) not in finished:
                result = measure(case, seed, args)
                with results.open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(result) + "\n")
    print_table(read_results(results))


def measure(case: Case, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train an expert, unless a case with the same training did, and evaluate it on the test documents."""
    folder = args.out / f"{case.length}-{case.trained_windows}-{seed}"
    file = folder / "documents.csv"
    write_rows(file, list(documents(read_sentences(args.folder / args.data), args.rows, seed)))
    stage = {"steps": args.steps, "batch_size": 16, "lr": 1e-3, "head_lr": 1e-3, "evals": 3}
    raw = {
        "seed": seed,
        "backbone": {
            "trunk_depth": 4,
            "max_length": case.length,
            "windows": case.trained_windows,
            "dtype": "float32",
        },
        "data": {"near_duplicates": None},
        "domains": {"documents": {"file": str(file.resolve()), "labels": list(LABELS)}},
        "shared": None,
        "lora": {"r": 16, "alpha": 32, "dropout": 0.0},
        "stages": {"expert": stage},
        "track": [],
    }
    work = Workspace(parse_run(raw, case.name), folder / "run")
    start = time.process_time()
    if not work.expert_folder("documents").is_dir():
        train_domain(work, "documents")
    trained = time.process_time()
    model, run = load_single_expert(
        work.expert_folder("documents"), lambda settings: settings.model_copy(update={"windows": case.used_windows})
    )
    begun = time.process_time()
    report, rows = evaluate(model, work.rows("test"), run.template, case.length)
    task = report.tasks["documents"]
    return {
        "name": case.name,
        "seed": seed,
        "max_length": case.length,
        "training_seconds": trained - start,
        "text_milliseconds": 1000 * (time.process_time() - begun) / len(rows),
        "accuracy": task.accuracy,
        "macro_f1": task.macro_f1,
        "macro_f1_interval": task.macro_f1_interval,
    }


def read_sentences(path: Path) -> dict[str, list[str]]:
    """Return the sentences of each label."""
    sentences: dict[str, list[str]] = {label: [] for label in LABELS}
    with path.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["label"] in sentences:
                sentences[row["label"]].append(row["text"])
    return sentences


def documents(sentences: dict[str, list[str]], sizes: Sequence[int], seed: int) -> Iterator[Row]:
    """Yield documents of all splits, which share no sentence: one sentence decides, the others are neutral."""
    source = Random(seed)
    pools = {label: source.sample(texts, len(texts)) for label, texts in sentences.items()}
    total, done = sum(sizes), 0
    for split, size in zip(("train", "validation", "test"), sizes, strict=True):
        part = {label: pools[label][len(pools[label]) * done // total :] for label in LABELS}
        part = {label: texts[: len(pools[label]) * size // total] for label, texts in part.items()}
        done += size
        for i in range(size):
            label = LABELS[i % len(LABELS)]
            filler = source.sample(part["neutral"], SENTENCES - (label != "neutral"))
            deciding = [] if label == "neutral" else [part[label][i // len(LABELS) % len(part[label])]]
            parts = source.sample([*filler, *deciding], SENTENCES)
            yield {"id": f"{split}{i}", "text": " ".join(parts), "label": label, "split": split}


def write_rows(path: Path, rows: Sequence[Row]) -> None:
    """Write rows as CSV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_results(path: Path) -> list[dict[str, Any]]:
    """Return the results so far; none if there is no file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def print_table(results: Sequence[dict[str, Any]]) -> None:
    """Print the means over the seeds; with a single seed also the interval of its test rows."""
    print("| long texts | max_length | macro-F1 | accuracy | training, CPU s | a text, CPU ms |")
    print("|---|---|---|---|---|---|")
    for name in dict.fromkeys(row["name"] for row in results):
        rows = [row for row in results if row["name"] == name]
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in ("macro_f1", "accuracy", "text_milliseconds")}
        training = max(row["training_seconds"] for row in rows)
        low, high = rows[0]["macro_f1_interval"]
        span = f" ({low:.3f} to {high:.3f})" if len(rows) == 1 else f" ({len(rows)} seeds)"
        print(
            f"| {name} | {rows[0]['max_length']} | {mean['macro_f1']:.3f}{span} | {mean['accuracy']:.3f} "
            f"| {training:.0f} | {mean['text_milliseconds']:.0f} |"
        )


if __name__ == "__main__":
    main()
