"""Depth of the trunk: quality and time of one expert on all domains with adapted layers from m = 0 … 4, seed by seed.

Run: `python benchmarks/trunk.py --data FOLDER [--speed] [--routing] [--chart docs/trunk.png]`. It resumes where it
stopped, and prints the results so far.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from chart import FLOOR, OURS, TARGET
from paired_timing import Ratio, build_untrained, compare, forward_all, load_texts, print_ratios, tokenize_batches
from real import ResultsFile, build_parser, evaluate_expert, print_results, read_all_results
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training import TrainingStep

from moe.config.run import load_run
from moe.config.stages import JOINT
from moe.data.collator import tokenize
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_shared
from router.gate import mean_summary

DEPTHS = (0, 1, 2, 3, 4)
TOLERANCE = 0.3  # points of mean macro-F1 that a deeper trunk may lose to become the default
SPEED = "speed.json"
NAME = "trunk of "
ANSWERS, STEP = "answers, soft, E = 5", "joint step, E = 5"
"""Prefixes of the names of ratios in `speed.json`."""
KINDS = {ANSWERS: "soft inference, E = 5", STEP: STEP}
"""Title of each prefix."""


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = build_parser(__doc__, Path("runs/trunk"))
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--speed", action="store_true", help="time inference and joint steps at each depth")
    parser.add_argument(
        "--routing", action="store_true", help="measure how often a linear router finds the domain at each depth"
    )
    parser.add_argument("--rounds", type=int, default=9, help="of --speed")
    parser.add_argument("--chart", type=Path, help="image to write")
    args = parser.parse_args()
    for seed in [] if args.print_only else args.seeds:
        for depth in args.depths:
            measure(args, seed, depth)
    print_results(args.out)
    print_cost(args.out)
    if args.speed:
        ratios = print_ratios(measure_speed(args.depths, args.rounds), Console(width=160))
        speeds = [asdict(ratio) | {"ratio": ratio.ratio} for ratio in ratios]
        (args.out / SPEED).write_text(json.dumps(speeds, indent=2), encoding="utf-8")
    if args.routing:
        print_routing(args)
    if args.chart:
        draw(args.out, args.chart)


def measure(args: argparse.Namespace, seed: int, depth: int) -> None:
    """Train and evaluate one expert on all domains after a trunk of `depth` layers."""
    sets = [f"data.folder={args.data}", f"seed={seed}", f"backbone.trunk_depth={depth}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / f"{seed}-{depth}")
    work.rows("train")
    start = time.monotonic()
    train_shared(work, resume=True)
    seconds = time.monotonic() - start
    results = ResultsFile(args.out / f"results-{seed}.jsonl", seed)
    results.add(f"{NAME}{depth}", lambda: [evaluate_expert(work, "shared")])
    if seconds > 1:
        print(f"seed {seed}, trunk depth {depth}: {seconds:.0f} s of training", flush=True)


def macro_f1_by_depth(out: Path) -> dict[int, dict[int, float]]:
    """Return macro-F1 in points, as mean over the tasks: by depth, then by seed."""
    scores: dict[int, dict[int, float]] = {}
    for result in read_all_results(out):
        points = 100 * float(np.mean([task["macro_f1"] for task in result["tasks"].values()]))
        scores.setdefault(int(result["model"].removeprefix(NAME)), {})[result["seed"]] = points
    return dict(sorted(scores.items()))


def print_cost(out: Path) -> None:
    """Print mean macro-F1 minus that without a trunk, on the seeds that have both."""
    scores = macro_f1_by_depth(out)
    baseline = scores.get(0, {})
    table = Table(title="mean macro-F1 minus that of m = 0, points", title_justify="left")
    for column in ("m", *(f"seed {seed}" for seed in baseline), "mean"):
        table.add_column(column)
    for depth, points in scores.items():
        costs = {seed: points[seed] - baseline[seed] for seed in baseline if seed in points}
        cells = [f"{costs[seed]:+.2f}" if seed in costs else "–" for seed in baseline]
        table.add_row(str(depth), *cells, f"{np.mean(list(costs.values())):+.2f}" if costs else "–")
    Console(width=120).print(table)


def measure_speed(depths: Sequence[int], rounds: int) -> Iterator[Ratio]:
    """Compare inference, and joint steps with cached trunk states, with those without a trunk."""
    batches = tokenize_batches(load_backbone(BackboneSettings()), load_texts(96))
    inference = forward_all(build_untrained(5, 16, 0), batches)
    step = TrainingStep(build_untrained(5, 16, 0), JOINT, batches, cached=True)
    for depth in depths:
        model = build_untrained(5, 16, depth)
        yield compare(f"{ANSWERS}, m = {depth}: m = 0", forward_all(model, batches), inference, "–", rounds)
        ours = TrainingStep(build_untrained(5, 16, depth), JOINT, batches, cached=True)
        yield compare(f"{STEP}, m = {depth}: m = 0", ours, step, "–", rounds)


def print_routing(args: argparse.Namespace) -> None:
    """Print how often logistic regression on the trunk's states finds the domain of held-out texts, by depth."""
    sets = [f"data.folder={args.data}", f"seed={args.seeds[0]}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / "routing")
    splits = [work.rows(name) for name in ("train", "test")]
    train, test = (rows.select(range(0, len(rows), max(1, len(rows) // 4000))) for rows in splits)
    table = Table("m", "right domain", title=f"{len(train):,} training texts, {len(test):,} test texts")
    for depth in args.depths:
        model = build_untrained(2, 8, depth)
        train_states, test_states = (trunk_summaries(model, rows["text"]) for rows in (train, test))
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_states, train["domain"])
        table.add_row(str(depth), f"{probe.score(test_states, test['domain']):.3f}")
    Console(width=120).print(table)


def trunk_summaries(model: Mixture, texts: Sequence[str]) -> np.ndarray:
    """Return approximately the router's input for texts (N, D): normalized trunk states, averaged over all tokens."""
    summaries = np.zeros((len(texts), model.backbone.config.hidden_size), dtype=np.float32)  # (N, D)
    order = np.argsort([len(text) for text in texts])  # (N,)
    for indices in np.array_split(order, -(-len(order) // 32)):
        ids, mask = tokenize([texts[i] for i in indices], model.loaded_backbone.tokenizer, "{text}", 128)
        summaries[indices] = mean_summary(model.encode_trunk(ids, mask)[0], mask).numpy()
    return summaries


def draw(out: Path, path: Path) -> None:
    """Draw macro-F1 by depth for each seed and the mean, and the time of inference and steps if it was measured."""
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    scores = macro_f1_by_depth(out)
    speeds = json.loads((out / SPEED).read_text(encoding="utf-8")) if (out / SPEED).is_file() else []
    figure, axes = plt.subplots(1, 2 if speeds else 1, figsize=(10 if speeds else 5, 3.6), squeeze=False)
    axis, depths = axes[0][0], list(scores)
    for marker, seed in zip("os^vD", sorted({seed for points in scores.values() for seed in points}), strict=False):
        measured = [depth for depth in depths if seed in scores[depth]]
        values = [scores[depth][seed] for depth in measured]
        axis.plot(measured, values, marker, color=OURS, alpha=0.45, label=f"seed {seed}")
    means = [float(np.mean(list(points.values()))) for points in scores.values()]
    axis.plot(depths, means, color=OURS, lw=2, label="mean")
    axis.axhline(means[0] - TOLERANCE, color=TARGET, lw=1.2, ls="--", label=f"{TOLERANCE} below m = {depths[0]}")
    axis.set_ylabel("macro-F1 on test rows, mean over tasks")
    if speeds:
        for prefix, color, marker in ((ANSWERS, OURS, "o"), (STEP, FLOOR, "s")):
            mine = [speed for speed in speeds if speed["name"].startswith(prefix)]
            x = [int(speed["name"].split("m = ")[1][0]) for speed in mine]
            axes[0][1].plot(x, [speed["ratio"] for speed in mine], f"{marker}-", color=color, label=KINDS[prefix])
        axes[0][1].set_ylabel("time relative to m = 0")
        axes[0][1].set_ylim(0, 1.1)
    for axis in axes[0]:
        axis.set_xlabel("trunk depth m (of 6 layers)")
        axis.set_xticks(depths)
        axis.grid(color="0.92")
        axis.legend(frameon=False, fontsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
