"""DAO against constant weights and other loss weightings on real text, at the inner and at the outer level.

Run: `python benchmarks/dao.py inner --data FOLDER` (classes and polarity of fiqa_sa.csv, five folds) or
`python benchmarks/dao.py outer --data FOLDER --start runs/quality` (the joint stage, from the warm starts that
`benchmarks/quality.py` trained). All methods start from the same weights. Both resume where they stopped and print the
results so far.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from predictions import format_points, group_by_domain, join_seeds, mean_over_domains
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
from moe.training.expert_steps import train_domain
from moe.training.steps import train_stage

CONFIGS = Path(__file__).parent.parent / "configs"
FOLDS = 5
OURS = "DAO, sum"
SEEDS = (13, 42, 87)
Result = dict[str, Any]
"""A line of a results file: `tasks`, `routing`, `method`, `seed`, `fold` and `validation`."""


def constant_weights(level: str, **weights: float) -> list[str]:
    """Return settings for constant weights at a level."""
    return [f"losses.{level}=constant", *[f"losses.constants.{name}={value}" for name, value in weights.items()]]


INNER = {
    **{
        f"constant, classes {w}": constant_weights("inner", classes=w, polarity=round(1 - w, 2))
        for w in (0.05, 0.1, 0.3)
    },
    "equal": ["losses.inner=equal"],
    OURS: ["losses.inner=dao"],
    "DAO, validation": ["losses.inner=dao", "dao.objective=validation"],
    **{name: [f"losses.inner={name}"] for name in ("uncertainty", "gradnorm", "pcgrad")},
    "dwa": ["losses.inner=dwa", "comparators.dwa_every=25"],  # one of a fold's six epochs
}
OUTER = {
    "constant, domain 1.5, balance .05": constant_weights("outer", domain=1.5, balance=0.05),
    OURS: ["losses.outer=dao"],
    "DAO, validation": ["losses.outer=dao", "dao.objective=validation"],
    "constant, domain .3, balance .05": constant_weights("outer", domain=0.3, balance=0.05),
    "constant, domain 1.5, balance .5": constant_weights("outer", domain=1.5, balance=0.5),
    **{name: [f"losses.outer={name}"] for name in ("equal", "uncertainty", "dwa", "gradnorm", "pcgrad")},
}


def main() -> None:
    """Measure what is missing of one level, then print it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("level", choices=("inner", "outer"))
    parser.add_argument("--data", type=Path, required=True, help="folder with the files of the config")
    parser.add_argument("--out", type=Path, default=Path("runs/dao"))
    parser.add_argument("--start", type=Path, help="outer: output folder of benchmarks/quality.py")
    parser.add_argument("--config", type=Path, default=CONFIGS / "real" / "five_domains.yaml", help="outer: its config")
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--methods", nargs="*", help="rows of the table; default: all")
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    args = parser.parse_args()
    path = args.out / f"{args.level}.jsonl"
    measure = measure_inner if args.level == "inner" else measure_outer
    for result in () if args.print_only else measure(args, finished_runs(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(result) + "\n")
    results = [result for result in read_results(path) if result["seed"] in args.seeds]
    print_metrics(args.level, results)
    run = load_run(args.config if args.level == "outer" else CONFIGS / "dao" / "fiqa.yaml")
    print_differences(args.level, results, run.label_space())


def read_results(path: Path) -> list[Result]:
    """Return the results so far."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def finished_runs(path: Path) -> set[tuple[Any, ...]]:
    """Return method, seed and fold of the runs that have a result."""
    return {(result["method"], result["seed"], result["fold"]) for result in read_results(path)}


def measure_inner(args: argparse.Namespace, finished: set[tuple[Any, ...]]) -> Iterator[Result]:
    """Weight classes against polarity: train one expert on fiqa_sa, fold by fold."""
    for seed in args.seeds:
        for fold in range(FOLDS):
            for method in args.methods or INNER:
                if (method, seed, fold) not in finished:
                    sets = [f"data.folder={args.data}", f"seed={seed}", f"domains.fiqa.split.fold={fold}"]
                    run = load_run(CONFIGS / "dao" / "fiqa.yaml", [*sets, *INNER[method], *args.sets])
                    work = Workspace(run, args.out / "inner" / f"{seed}-{fold}-{folder_name(method)}")
                    (folder,) = train_domain(work, "fiqa", resume=True)
                    model, run = load_single_expert(folder)
                    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
                    yield evaluate_model(work, model, run.template, run.backbone.resolved_length) | {
                        "method": method,
                        "seed": seed,
                        "fold": fold,
                        "validation": metrics["best"],
                    }
                    shutil.rmtree(work.out)


def measure_outer(args: argparse.Namespace, finished: set[tuple[Any, ...]]) -> Iterator[Result]:
    """Weight sentiment, domain and balance: train the joint stage from one warm start per seed."""
    for method in args.methods or OUTER:
        for seed in args.seeds:
            if (method, seed, 0) not in finished:
                sets = [f"data.folder={args.data}", f"seed={seed}", *OUTER[method], *args.sets]
                run = load_run(args.config, sets)
                work = Workspace(run, args.out / "outer" / f"{seed}-{folder_name(method)}", args.start / "rows")
                train_stage(work, JOINT, args.start / str(seed) / WARMUP.folder, overwrite=True)
                model, card = read_mixture(work.out / JOINT.folder)
                yield evaluate_model(work, model, card.template, card.backbone_settings.resolved_length) | {
                    "method": method,
                    "seed": seed,
                    "fold": 0,
                    "validation": card.metrics,
                }
                shutil.rmtree(work.out)


def folder_name(method: str) -> str:
    """Return the name of a method with characters that suit a folder."""
    return "".join(c if c.isalnum() else "-" for c in method)


def evaluate_model(work: Workspace, model: Mixture, template: str, max_length: int) -> Result:
    """Return the domain accuracy, and each test row's true label, predicted label, score and polarity by task."""
    report, rows = evaluate(model, work.rows("test"), template, max_length)
    tasks: dict[str, list[list[Any]]] = {}
    for row in rows:
        values = [row.true, row.masked.label, row.row["score"], row.masked.polarity]
        tasks.setdefault(row.row["task"], []).append(values)
    return {"tasks": tasks, "routing": report.routing.accuracy if model.gate else None}


def average_metrics(results: Sequence[Result]) -> dict[str, float]:
    """Return accuracy, macro-F1 and MSE of one seed, averaged over tasks; the rows of its folds are joined."""
    metrics: dict[str, list[float]] = {}
    for task in results[0]["tasks"]:
        rows = [row for result in results for row in result["tasks"][task]]
        true, predicted = [row[0] for row in rows], [row[1] for row in rows]
        report = classification(true, predicted, sorted(set(true)))
        metrics.setdefault("accuracy", []).append(report.accuracy)
        metrics.setdefault("macro_f1", []).append(report.macro_f1)
        if all(row[2] is not None and row[3] is not None for row in rows):
            scores = regression(*np.array([row[2:] for row in rows], dtype=float).T)
            metrics.setdefault("mse", []).append(scores.mse)
    means = {name: float(np.mean(values)) for name, values in metrics.items()}
    means["validation"] = float(np.mean([result["validation"]["macro_f1"] for result in results]))
    routing = [result["routing"] for result in results if result["routing"] is not None]
    return means | ({"right domain": float(np.mean(routing))} if routing else {})


def results_by_seed(level: str, results: Sequence[Result], method: str) -> dict[int, list[Result]]:
    """Return a method's results of each seed that has all its folds, in the order of folds."""
    mine = sorted((result for result in results if result["method"] == method), key=lambda result: result["fold"])
    seeds = dict.fromkeys(result["seed"] for result in mine)
    groups = {seed: [result for result in mine if result["seed"] == seed] for seed in seeds}
    folds = FOLDS if level == "inner" else 1
    return {seed: group for seed, group in groups.items() if len(group) == folds}


def print_metrics(level: str, results: Sequence[Result]) -> None:
    """Print mean and standard deviation over the complete seeds of each method."""
    table = Table(title=f"{level} level: test rows, mean ± sd over seeds", title_justify="left")
    columns = ["accuracy", "macro_f1", *(["mse"] if level == "inner" else ["right domain"]), "validation"]
    for name in ("method", "seeds", *columns):
        table.add_column(name)
    for method in dict.fromkeys(result["method"] for result in results):
        seeds = [average_metrics(group) for group in results_by_seed(level, results, method).values()]
        if seeds:
            values = [[seed[column] for seed in seeds] for column in columns]
            table.add_row(method, str(len(seeds)), *(f"{np.mean(v):.4f} ± {np.std(v):.4f}" for v in values))
    Console(width=160).print(table)


def print_differences(level: str, results: Sequence[Result], space: LabelSpace) -> None:
    """Print DAO's mean macro-F1 over domains minus each other method's, paired by row, on the seeds of both."""
    ours = results_by_seed(level, results, OURS)
    table = Table(title=f"macro-F1 of {OURS!r} minus another method's, points, 95 %", title_justify="left")
    for name in ("minus", "seeds", "macro-F1 of DAO", "of the other", "difference"):
        table.add_column(name)
    for method in dict.fromkeys(result["method"] for result in results):
        theirs = results_by_seed(level, results, method)
        shared = [seed for seed in ours if seed in theirs]
        if method == OURS or not shared:
            continue
        sides = [
            group_by_domain(predictions_by_task([side[seed] for seed in shared], space), space)
            for side in (ours, theirs)
        ]
        means = [f"{mean_over_domains(side).value:.4f}" for side in sides]
        table.add_row(method, str(len(shared)), *means, format_points(mean_over_domains(*sides)))
    Console(width=160).print(table)


def predictions_by_task(seeds: Sequence[Sequence[Result]], space: LabelSpace) -> dict[str, TaskPredictions]:
    """Return the predictions of all seeds by task; the rows of folds are joined."""
    predictions = {}
    for task, labels in space.tasks.items():
        rows = [[row for result in results for row in result["tasks"][task]] for results in seeds]
        pairs = [([row[0] for row in seed], [row[1] for row in seed]) for seed in rows]
        predictions[task] = join_seeds(pairs, labels)
    return predictions


if __name__ == "__main__":
    main()
