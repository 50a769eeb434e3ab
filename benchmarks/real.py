"""Quality on four real domains: the mixture against TF-IDF, a pooled LoRA and its own experts, seed by seed.

Run: `python benchmarks/real.py --data FOLDER`. It resumes where it stopped, and prints the results so far.
"""

import argparse
import json
from collections.abc import Callable, Sequence
from functools import partial
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
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

CONFIG = Path(__file__).parent.parent / "configs" / "real" / "four_domains.yaml"
SEEDS = (13, 42, 87)
OURS = f"{JOINT.folder}, soft"
POOLED = (60,)  # the mixture's total rank
Result = dict[str, Any]


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = build_parser(__doc__, Path("runs/real"))
    parser.add_argument("--pooled", type=int, nargs="*", default=POOLED, help="ranks of the pooled LoRA")
    args = parser.parse_args()
    for seed in [] if args.print_only else args.seeds:
        measure(args, seed)
    print_results(args.out)
    print_differences(args.out)


def build_parser(description: str | None, out: Path) -> argparse.ArgumentParser:
    """Return a parser of the options that benchmarks on the four domains have in common."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", type=Path, required=True, help="folder with the four files")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--seeds", type=int, nargs="*", default=SEEDS)
    parser.add_argument("--set", dest="sets", action="append", default=[], help="override a setting, as KEY=VALUE")
    parser.add_argument("--print-only", action="store_true")
    return parser


def measure(args: argparse.Namespace, seed: int) -> None:
    """Train and evaluate every model of one seed that has no result yet."""
    sets = [f"data.folder={args.data}", f"seed={seed}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / str(seed))
    results = ResultsFile(args.out / f"results-{seed}.jsonl", seed)
    results.add("TF-IDF", lambda: [evaluate_tfidf(work)])
    if work.run.shared:
        train_shared(work, resume=True)
        results.add("shared expert", lambda: [evaluate_expert(work, "shared")])
    for domain in work.run.domains:
        train_domain(work, domain, resume=True)
    results.add("own expert", lambda: [evaluate_expert(work, domain, [domain]) for domain in work.run.domains])
    if not (work.out / MERGED).is_dir():
        merge_experts(work)
    train_router(work, resume=True)
    for name in (MERGED, WARMUP.folder, JOINT.folder):
        for mode in ("soft", "hard", "pinned") if name == JOINT.folder else ("soft",):
            results.add(f"{name}, {mode}", partial(evaluate_mixture, work, name, mode))
    for rank in args.pooled:
        measure_pooled(args, results, sets, rank, seed)


def measure_pooled(args: argparse.Namespace, results: "ResultsFile", sets: Sequence[str], rank: int, seed: int) -> None:
    """Measure one LoRA on all domains pooled: the shared expert with another rank."""
    overrides = [*sets, f"shared.r={rank}", f"shared.alpha={rank}"]
    pooled = Workspace(load_run(args.config, overrides), args.out / f"{seed}-pooled-{rank}")
    train_shared(pooled, resume=True)
    results.add(f"pooled LoRA r {rank}", lambda: [evaluate_expert(pooled, "shared")])


def evaluate_tfidf(work: Workspace) -> Result:
    """Train and evaluate TF-IDF."""
    reports = baseline_reports(work.rows("train"), work.rows("test"), work.run.label_space(), "tfidf")
    return {task: {"accuracy": its.accuracy, "macro_f1": its.macro_f1} for task, its in reports.items()}


def evaluate_expert(work: Workspace, name: str, domains: Sequence[str] | None = None) -> Result:
    """Evaluate a single expert on the test rows of some domains, all by default."""
    model, run = load_single_expert(work.expert_folder(name))
    return _evaluate(model, work, run.template, run.backbone.resolved_length, domains=domains)


def evaluate_mixture(work: Workspace, name: str, mode: str) -> list[Result]:
    """Evaluate a mixture on the test rows: `soft`, `hard`, or `pinned` to the experts of the true domain."""
    model, card = read_mixture(work.out / name)
    routing: Routing = "hard" if mode == "hard" else "soft"
    max_length = card.backbone_settings.resolved_length
    return [_evaluate(model, work, card.template, max_length, routing=routing, pin=mode == "pinned")]


def _evaluate(
    model: Mixture,
    work: Workspace,
    template: str,
    max_length: int,
    routing: Routing = "soft",
    pin: bool = False,
    domains: Sequence[str] | None = None,
) -> Result:
    report, rows = evaluate(model, work.rows("test", domains), template, max_length, routing=routing, pin=pin)
    correct: dict[str, list[int]] = {}
    for row in rows:
        correct.setdefault(row.row["task"], []).append(int(row.masked.label == row.true))
    result: Result = {
        task: {"accuracy": its.accuracy, "macro_f1": its.macro_f1, "right": correct[task]}
        for task, its in report.tasks.items()
    }
    return result | ({"": {"routing": report.routing.accuracy}} if model.gate else {})


class ResultsFile:
    """Results of one seed on disk, one line per model, so that a stopped benchmark can resume."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path, self.seed = path, seed
        self.finished = {result["model"] for result in read_results(path)}

    def add(self, model: str, evaluate_parts: Callable[[], list[Result]]) -> None:
        """Evaluate a model and append its result, unless the file has one."""
        if model in self.finished:
            return
        tasks = {task: metrics for part in evaluate_parts() for task, metrics in part.items()}
        routing = tasks.pop("", {}).get("routing")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"model": model, "seed": self.seed, "routing": routing, "tasks": tasks}) + "\n")


def read_results(path: Path) -> list[Result]:
    """Return the lines of a results file; none if it does not exist."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def read_all_results(out: Path) -> list[Result]:
    """Return the results of all seeds."""
    return [result for path in sorted(out.glob("results-*.jsonl")) for result in read_results(path)]


def print_results(out: Path) -> None:
    """Print means over seeds, by task and over tasks, with intervals."""
    results = read_all_results(out)
    tasks = list(dict.fromkeys(task for result in results for task in result["tasks"]))
    table = Table(title="test rows: accuracy / macro-F1, mean over seeds", title_justify="left")
    for column in ("model", "seeds", *tasks, "mean", "95 % of mean accuracy", "right domain"):
        table.add_column(column)
    for model in dict.fromkeys(result["model"] for result in results):
        seeds = [result for result in results if result["model"] == model]
        cells = [_format_metrics(seeds, [task]) for task in tasks]
        interval, routing = _format_interval(seeds, tasks), _format_routing(seeds)
        table.add_row(model, str(len(seeds)), *cells, _format_metrics(seeds, tasks), interval, routing)
    Console(width=180).print(table)


def _format_metrics(seeds: Sequence[Result], tasks: Sequence[str]) -> str:
    means = [
        np.mean([[seed["tasks"][task][name] for task in tasks] for seed in seeds]) for name in ("accuracy", "macro_f1")
    ]
    return " / ".join(f"{mean:.3f}" for mean in means)


def _format_interval(seeds: Sequence[Result], tasks: Sequence[str]) -> str:
    if not all("right" in seed["tasks"][task] for seed in seeds for task in tasks):
        return "–"
    accuracy = bootstrap_intervals(_predictions(seeds, tasks))["accuracy"]
    return f"{accuracy.low:.3f} to {accuracy.high:.3f}"


def _format_routing(seeds: Sequence[Result]) -> str:
    routing = [seed["routing"] for seed in seeds if seed["routing"] is not None]
    return f"{np.mean(routing):.3f}" if routing else "–"


def _predictions(seeds: Sequence[Result], tasks: Sequence[str]) -> list[TaskPredictions]:
    return [TaskPredictions.from_correct([seed["tasks"][task]["right"] for seed in seeds]) for task in tasks]


def accuracy_difference(ours: Sequence[Result], theirs: Sequence[Result], tasks: Sequence[str]) -> Interval:
    """Return the mean difference of accuracy on the seeds that both have, paired by row."""
    shared = {result["seed"] for result in ours} & {result["seed"] for result in theirs}
    sides = ([result for result in results if result["seed"] in shared] for results in (ours, theirs))
    mine, others = (_predictions(seeds, tasks) for seeds in sides)
    return bootstrap_differences(mine, others)["accuracy"]


def print_differences(out: Path) -> None:
    """Print the joint mixture's accuracy minus each other model's, on the seeds that both have."""
    results = read_all_results(out)
    ours = [result for result in results if result["model"] == OURS]
    tasks = list(dict.fromkeys(task for result in ours for task in result["tasks"]))
    table = Table(title=f"accuracy of {OURS!r} minus another model's, points, 95 %", title_justify="left")
    for column in ("minus", "seeds", *tasks, "mean"):
        table.add_column(column)
    for model in dict.fromkeys(result["model"] for result in results):
        theirs = [r for r in results if r["model"] == model and "right" in r["tasks"][tasks[0]]] if ours else []
        shared = {result["seed"] for result in theirs} & {result["seed"] for result in ours}
        if shared and model != OURS:
            differences = [
                accuracy_difference(ours, theirs, columns) for columns in (*[[task] for task in tasks], tasks)
            ]
            cells = [f"{100 * d.value:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f})" for d in differences]
            table.add_row(model, str(len(shared)), *cells)
    Console(width=180).print(table)


if __name__ == "__main__":
    main()
