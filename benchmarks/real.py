"""The mixture beside TF-IDF, pooled LoRA and its own experts, on real text, side by side, seed by seed.

Run: `python benchmarks/real.py --data FOLDER`; it goes on where it stopped, and prints the table of what is there.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from moe.bootstrap import Interval, TaskPredictions, bootstrap_differences, bootstrap_intervals
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.config.run import load_run
from moe.config.stages import JOINT, MERGED, WARMUP
from moe.evaluation.baselines import baseline_reports
from moe.evaluation.evaluate import evaluate
from moe.runs.workspace import Workspace
from moe.training.steps import merge_experts, train_domain, train_router, train_shared

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "four_domains.yaml"
SEEDS = (13, 42, 87)
OURS = f"{JOINT.folder}, soft"
POOLED = (60,)  # the mixture's total rank; that of one expert is the shared expert by itself
Result = dict[str, Any]


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = options(__doc__, Path("runs/real"))
    parser.add_argument("--pooled", type=int, nargs="*", default=POOLED, help="ranks of the pooled LoRA")
    args = parser.parse_args()
    for seed in [] if args.print_only else args.seeds:
        measure(args, seed)
    show(args.out)
    show_differences(args.out)


def options(about: str | None, out: Path) -> argparse.ArgumentParser:
    """What every measurement on the real files is asked."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--data", type=Path, required=True, help="folder with the four files")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="lay a setting over the config")
    parser.add_argument("--print-only", action="store_true")
    return parser


def measure(args: argparse.Namespace, seed: int) -> None:
    """Train and judge every model of one seed; finished ones are kept."""
    sets = [f"data.folder={args.data}", f"seed={seed}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / str(seed))
    book = Book(args.out / f"results-{seed}.jsonl", seed)
    space = work.run.label_space()
    book.once("TF-IDF", lambda: [baseline_reports(work.rows("train"), work.rows("test"), space, "tfidf")])
    if work.run.shared:
        train_shared(work, resume=True)
        book.once("shared expert", lambda: [judged_alone(work, "shared")])
    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    book.once("own expert", lambda: [judged_alone(work, d, [d]) for d in work.run.domains])
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)
    for name in (MERGED, WARMUP.folder, JOINT.folder):
        for mode in ("soft", "hard", "pinned") if name == JOINT.folder else ("soft",):
            book.once(f"{name}, {mode}", lambda name=name, mode=mode: [judged_mixture(work, name, mode)])
    for rank in args.pooled:
        measure_pooled(args, book, sets, rank, seed)


def measure_pooled(args: argparse.Namespace, book: "Book", sets: Sequence[str], rank: int, seed: int) -> None:
    """One LoRA on all domains pooled: the shared expert with another rank."""
    own = [f"shared.r={rank}", f"shared.alpha={rank}"]
    pooled = Workspace(load_run(args.config, [*sets, *own]), args.out / f"{seed}-pooled-{rank}")
    train_shared(pooled, resume=True)
    book.once(f"pooled LoRA r {rank}", lambda: [judged_alone(pooled, "shared")])


def judged_alone(work: Workspace, name: str, domains: Sequence[str] | None = None) -> Result:
    """One expert by itself on the test rows."""
    model, run = load_single_expert(work.expert_folder(name))
    return _judge(model, work, run.template, run.backbone.max_length, "soft", domains)


def judged_mixture(work: Workspace, name: str, mode: str) -> Result:
    """One mixture on the test rows: soft, hard, or pinned to the true domain."""
    model, card = read_mixture(work.out / name)
    return _judge(model, work, card.template, card.backbone_settings.max_length, mode)


def _judge(
    model: Any, work: Workspace, template: str, max_length: int, mode: str, domains: Sequence[str] | None = None
) -> Result:
    routing = "hard" if mode == "hard" else "soft"
    report, judged = evaluate(model, work.rows("test", domains), template, max_length, routing, mode == "pinned")
    right: dict[str, list[int]] = {}
    for one in judged:
        right.setdefault(one.row["task"], []).append(int(one.masked.label == one.true))
    found = {task: dict(figures) | {"right": right[task]} for task, figures in report["tasks"].items()}
    return found | ({"": {"routing": report["routing"]["accuracy"]}} if model.gate else {})


class Book:
    """Results on disk, a line a model, so that a stopped measurement goes on."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.done = {one["model"] for one in read(path)}

    def once(self, model: str, judge: Callable[[], list[Result]]) -> None:
        """Judge a model unless its line is there."""
        if model in self.done:
            return
        whole = {task: figures for part in judge() for task, figures in part.items()}
        routing = whole.pop("", {}).get("routing")
        keep = {
            task: {key: one[key] for key in ("accuracy", "macro_f1", "right") if key in one}
            for task, one in whole.items()
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"model": model, "seed": self.seed, "routing": routing, "tasks": keep}) + "\n")


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of one book."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def show(out: Path) -> None:
    """Mean over seeds, by task and over tasks, with intervals."""
    rows = [one for path in sorted(out.glob("results-*.jsonl")) for one in read(path)]
    models = list(dict.fromkeys(row["model"] for row in rows))
    tasks = list(dict.fromkeys(task for row in rows for task in row["tasks"]))
    table = Table(title="test rows: accuracy / macro-F1, mean over seeds", title_justify="left")
    for name in ("model", "seeds", *tasks, "mean", "95 % of mean accuracy", "right domain"):
        table.add_column(name)
    for model in models:
        mine = [row for row in rows if row["model"] == model]
        table.add_row(
            model, str(len(mine)), *[_pair(mine, [task]) for task in tasks], _pair(mine, tasks), *_ends(mine, tasks)
        )
    Console(width=180).print(table)


def _pair(rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> str:
    figures = [
        [np.mean([row["tasks"][task][name] for task in tasks]) for row in rows] for name in ("accuracy", "macro_f1")
    ]
    return " / ".join(f"{np.mean(one):.3f}" for one in figures)


def _ends(rows: list[dict[str, Any]], tasks: Sequence[str]) -> list[str]:
    told = "–"
    if all("right" in row["tasks"][task] for row in rows for task in tasks):
        found = bootstrap_intervals(_answers(rows, tasks))["accuracy"]
        told = f"{found.low:.3f} to {found.high:.3f}"
    routing = [row["routing"] for row in rows if row["routing"] is not None]
    return [told, f"{np.mean(routing):.3f}" if routing else "–"]


def _answers(results: Sequence[Result], tasks: Sequence[str]) -> list[TaskPredictions]:
    return [TaskPredictions.from_correct([one["tasks"][task]["right"] for one in results]) for task in tasks]


def difference(ours: Sequence[Result], theirs: Sequence[Result], tasks: Sequence[str]) -> Interval:
    """Mean difference of accuracy on the seeds that both have, paired by row."""
    seeds = {one["seed"] for one in ours} & {one["seed"] for one in theirs}
    mine, other = ([one for one in results if one["seed"] in seeds] for results in (ours, theirs))
    return bootstrap_differences(_answers(mine, tasks), _answers(other, tasks))["accuracy"]


def show_differences(out: Path) -> None:
    """The joint mixture's accuracy less each other model's, on the seeds that both have."""
    rows = [one for path in sorted(out.glob("results-*.jsonl")) for one in read(path)]
    ours = [row for row in rows if row["model"] == OURS]
    tasks = list(dict.fromkeys(task for row in ours for task in row["tasks"]))
    table = Table(title=f"accuracy of {OURS} less that of another, points, 95 % interval", title_justify="left")
    for name in ("less that of", "seeds", *tasks, "mean"):
        table.add_column(name)
    for model in dict.fromkeys(row["model"] for row in rows):
        theirs = [row for row in rows if row["model"] == model and "right" in row["tasks"][tasks[0]]] if ours else []
        both = {row["seed"] for row in theirs} & {row["seed"] for row in ours}
        if both and model != OURS:
            parts = [difference(ours, theirs, some) for some in (*[[task] for task in tasks], tasks)]
            told = [f"{100 * one.value:+.1f} ({100 * one.low:+.1f} to {100 * one.high:+.1f})" for one in parts]
            table.add_row(model, str(len(both)), *told)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
