"""DAO beside constants and other balances, at both levels, on real text, from equal starts, side by side.

Run: `python benchmarks/dao.py inner --data FOLDER` (scores and classes of fiqa_sa.csv, five folds) and
`python benchmarks/dao.py outer --data FOLDER --start runs/quality` (the joint stage from the warm starts that
`benchmarks/quality.py` left, seed by seed). Both go on where they stopped and print the table of what is there.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from predictions import by_domain, of_seeds, over_domains, points
from rich.console import Console
from rich.table import Table

from experts.domain import LabelSpace
from moe.bootstrap import TaskPredictions
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import JOINT, WARMUP
from moe.evaluation.evaluate import evaluate
from moe.evaluation.metrics import classification, regression
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.steps import train_domain, train_stage

CONFIGS = Path(__file__).parent.parent / "configs"
FOLDS = 5
OURS = "DAO, sum"
SEEDS = (13, 42, 87)


def constants(level: str, **weights: float) -> list[str]:
    """Settings for constant weights at a level."""
    return [f"losses.{level}=constant", *[f"losses.constants.{name}={value}" for name, value in weights.items()]]


INNER = {
    **{f"constant, classes {w}": constants("inner", classes=w, polarity=round(1 - w, 2)) for w in (0.05, 0.1, 0.3)},
    "equal": ["losses.inner=equal"],
    OURS: ["losses.inner=dao"],
    "DAO, validation": ["losses.inner=dao", "dao.objective=validation"],
    **{name: [f"losses.inner={name}"] for name in ("uncertainty", "gradnorm", "pcgrad")},
    "dwa": ["losses.inner=dwa", "comparators.dwa_every=25"],  # an epoch, of which a fold has six
}
OUTER = {
    "constant, domain 1.5, balance .05": constants("outer", domain=1.5, balance=0.05),
    OURS: ["losses.outer=dao"],
    "DAO, validation": ["losses.outer=dao", "dao.objective=validation"],
    "constant, domain .3, balance .05": constants("outer", domain=0.3, balance=0.05),
    "constant, domain 1.5, balance .5": constants("outer", domain=1.5, balance=0.5),
    **{name: [f"losses.outer={name}"] for name in ("equal", "uncertainty", "dwa", "gradnorm", "pcgrad")},
}


def main() -> None:
    """Run what is missing of one study, then print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("level", choices=("inner", "outer"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/dao"))
    parser.add_argument("--start", type=Path, help="outer: what benchmarks/quality.py wrote")
    parser.add_argument("--config", type=Path, default=CONFIGS / "real" / "five_domains.yaml", help="outer: its config")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--methods", nargs="*", help="names of the table's rows; all by default")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="lay a setting over the config")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    book = args.out / f"{args.level}.jsonl"
    for one in () if args.print_only else (inner if args.level == "inner" else outer)(args, done(book)):
        book.parent.mkdir(parents=True, exist_ok=True)
        with book.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(one) + "\n")
    runs = [run for run in read(book) if run["seed"] in args.seeds]
    show(args.level, runs)
    run = load_run(args.config if args.level == "outer" else CONFIGS / "dao" / "fiqa.yaml")
    show_differences(args.level, runs, run.label_space())


def read(book: Path) -> list[dict[str, Any]]:
    """The finished runs."""
    return [json.loads(line) for line in book.read_text(encoding="utf-8").splitlines()] if book.is_file() else []


def done(book: Path) -> set[tuple[Any, ...]]:
    """Which runs are finished: method, seed, fold."""
    return {(one["method"], one["seed"], one["fold"]) for one in read(book)}


def inner(args: argparse.Namespace, have: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Classes against polarity: one expert on fiqa, fold by fold."""
    for seed in args.seeds:
        for fold in range(FOLDS):
            for method in args.methods or INNER:
                if (method, seed, fold) not in have:
                    sets = [f"data.folder={args.data}", f"seed={seed}", f"domains.fiqa.split.fold={fold}"]
                    run = load_run(CONFIGS / "dao" / "fiqa.yaml", [*sets, *INNER[method], *args.sets])
                    work = Workspace(run, args.out / "inner" / f"{seed}-{fold}-{slug(method)}")
                    (folder,) = train_domain(work, "fiqa", resume=True)
                    model, run = load_single_expert(folder)
                    card = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
                    yield judged(work, model, run.template, run.backbone.max_length) | {
                        "method": method,
                        "seed": seed,
                        "fold": fold,
                        "validation": card["best"],
                    }
                    shutil.rmtree(work.out)


def outer(args: argparse.Namespace, have: set[tuple[Any, ...]]) -> Iterator[dict[str, Any]]:
    """Sentiment, domain, balance: the joint stage of real domains, from one warm start a seed."""
    for method in args.methods or OUTER:
        for seed in args.seeds:
            if (method, seed, 0) not in have:
                sets = [f"data.folder={args.data}", f"seed={seed}", *OUTER[method], *args.sets]
                run = load_run(args.config, sets)
                work = Workspace(run, args.out / "outer" / f"{seed}-{slug(method)}", args.start / "rows")
                train_stage(work, JOINT, args.start / str(seed) / WARMUP.folder, overwrite=True)
                model, card = read_mixture(work.out / JOINT.folder)
                yield judged(work, model, card.template, card.backbone_settings.max_length) | {
                    "method": method,
                    "seed": seed,
                    "fold": 0,
                    "validation": card.metrics,
                }
                shutil.rmtree(work.out)


def slug(method: str) -> str:
    """A folder's name."""
    return "".join(c if c.isalnum() else "-" for c in method)


def judged(work: Workspace, model: Mixture, template: str, max_length: int) -> dict[str, Any]:
    """What a model says of every test row: by task, true and called label, score and polarity; and right domains."""
    report, rows = evaluate(model, work.rows("test"), template, max_length)
    tasks: dict[str, list[list[Any]]] = {}
    for one in rows:
        scores = [one.row["score"], one.masked.polarity]
        tasks.setdefault(one.row["task"], []).append([one.true, one.masked.label, *scores])
    return {"tasks": tasks, "routing": report["routing"]["accuracy"] if model.gate else None}


def figures(runs: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the runs of one seed: accuracy and macro-F1 meaned over tasks, folds joined, MSE where there are scores."""
    found: dict[str, list[float]] = {}
    for task in runs[0]["tasks"]:
        rows = [row for run in runs for row in run["tasks"][task]]
        true, called = [row[0] for row in rows], [row[1] for row in rows]
        one = classification(true, called, sorted(set(true)))
        for name in ("accuracy", "macro_f1"):
            found.setdefault(name, []).append(one[name])
        if all(row[2] is not None and row[3] is not None for row in rows):
            scores = regression(*np.array([row[2:] for row in rows], dtype=float).T)
            found.setdefault("mse", []).append(scores["mse"])
    mean = {name: float(np.mean(values)) for name, values in found.items()}
    mean["validation"] = float(np.mean([run["validation"]["macro_f1"] for run in runs]))
    routing = [run["routing"] for run in runs if run["routing"] is not None]
    return mean | ({"right domain": float(np.mean(routing))} if routing else {})


def by_seed(level: str, runs: Sequence[dict[str, Any]], method: str) -> dict[int, list[dict[str, Any]]]:
    """A method's runs of each seed that has all its folds, in their order."""
    mine = sorted((run for run in runs if run["method"] == method), key=lambda run: run["fold"])
    groups = {seed: [run for run in mine if run["seed"] == seed] for seed in dict.fromkeys(r["seed"] for r in mine)}
    whole = FOLDS if level == "inner" else 1
    return {seed: group for seed, group in groups.items() if len(group) == whole}


def show(level: str, runs: Sequence[dict[str, Any]]) -> None:
    """Mean and spread over seeds of each method; seeds with all their folds only."""
    table = Table(title=f"{level} level: test, mean ± sd over seeds", title_justify="left")
    columns = ["accuracy", "macro_f1", *(["mse"] if level == "inner" else ["right domain"]), "validation"]
    for name in ("method", "seeds", *columns):
        table.add_column(name)
    for method in dict.fromkeys(run["method"] for run in runs):
        seeds = [figures(group) for group in by_seed(level, runs, method).values()]
        if seeds:
            told = [f"{np.mean([s[c] for s in seeds]):.4f} ± {np.std([s[c] for s in seeds]):.4f}" for c in columns]
            table.add_row(method, str(len(seeds)), *told)
    Console(width=160).print(table)


def show_differences(level: str, runs: Sequence[dict[str, Any]], space: LabelSpace) -> None:
    """DAO's mean macro-F1 over domains less each other method's, paired by row, on the seeds that both have."""
    ours = by_seed(level, runs, OURS)
    table = Table(title=f"macro-F1 of {OURS} less that of another, points, 95 %", title_justify="left")
    for name in ("less that of", "seeds", "DAO's", "its own", "difference"):
        table.add_column(name)
    for method in dict.fromkeys(run["method"] for run in runs):
        theirs = by_seed(level, runs, method)
        both = [seed for seed in ours if seed in theirs]
        if method == OURS or not both:
            continue
        sides = [by_domain(answers([side[seed] for seed in both], space), space) for side in (ours, theirs)]
        means = [f"{over_domains(side).value:.4f}" for side in sides]
        table.add_row(method, str(len(both)), *means, points(over_domains(*sides)))
    Console(width=160).print(table)


def answers(seeds: Sequence[Sequence[dict[str, Any]]], space: LabelSpace) -> dict[str, TaskPredictions]:
    """By task, what the seeds said of the same rows, folds joined."""
    found = {}
    for task, labels in space.tasks.items():
        rows = [[row for run in runs for row in run["tasks"][task]] for runs in seeds]
        found[task] = of_seeds([([row[0] for row in some], [row[1] for row in some]) for some in rows], labels)
    return found


if __name__ == "__main__":
    main()
