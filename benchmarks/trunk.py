"""How deep the trunk may be: accuracy and time of one expert on all domains, layers from m up, m = 0 … 4, seed by seed.

Run: `python benchmarks/trunk.py --data FOLDER [--speed] [--routing] [--chart docs/trunk.png]`; it goes on where it
stopped, and prints the tables of what is there.
"""

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from chart import FLOOR, OURS, WANTED
from paired_timing import Ratio, batches, compare, mixture, texts, through
from paired_timing import show as show_ratios
from real import Book, judged_alone, options, read, show
from rich.console import Console
from rich.table import Table
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from training import Step

from moe.config.run import load_run
from moe.config.stages import JOINT
from moe.data.collator import tokenize
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.mixture import Mixture
from moe.runs.workspace import Workspace
from moe.training.steps import train_shared
from router.gate import mean_summary

DEPTHS = (0, 1, 2, 3, 4)
MAY_COST = 0.3  # points of mean macro-F1 that a deeper trunk may cost to become the default
SPEED = "speed.json"
NAME = "trunk of "
ANSWERS, STEP = "answers, soft, E = 5", "joint step, E = 5"


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = options(__doc__, Path("runs/trunk"))
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    parser.add_argument("--speed", action="store_true", help="time answers and joint steps at each depth, in turns")
    parser.add_argument(
        "--routing", action="store_true", help="how well a linear router tells the domains at each depth"
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    for seed in [] if args.print_only else args.seeds:
        for depth in args.depths:
            measure(args, seed, depth)
    show(args.out)
    show_cost(args.out)
    if args.speed:
        ratios = show_ratios(speed(args.depths, args.rounds), Console(width=160))
        kept = [asdict(one) | {"ratio": one.ratio} for one in ratios]
        (args.out / SPEED).write_text(json.dumps(kept, indent=2), encoding="utf-8")
    if args.routing:
        show_routing(args)
    if args.chart:
        draw(args.out, args.chart)


def measure(args: argparse.Namespace, seed: int, depth: int) -> None:
    """Train and judge one expert on all domains above a trunk of `depth` layers."""
    sets = [f"data.folder={args.data}", f"seed={seed}", f"backbone.trunk_depth={depth}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / f"{seed}-{depth}")
    work.rows("train")
    started = time.monotonic()
    train_shared(work, resume=True)
    spent = time.monotonic() - started
    book = Book(args.out / f"results-{seed}.jsonl", seed)
    book.once(f"{NAME}{depth}", lambda: [judged_alone(work, "shared")])
    if spent > 1:
        print(f"seed {seed}, trunk of {depth}: {spent:.0f} s of training", flush=True)


def macro_f1(out: Path) -> dict[int, dict[int, float]]:
    """Macro-F1 in points, mean over the tasks: by depth, then by seed."""
    found: dict[int, dict[int, float]] = {}
    for path in sorted(out.glob("results-*.jsonl")):
        for row in read(path):
            points = 100 * float(np.mean([task["macro_f1"] for task in row["tasks"].values()]))
            found.setdefault(int(row["model"].removeprefix(NAME)), {})[row["seed"]] = points
    return dict(sorted(found.items()))


def show_cost(out: Path) -> None:
    """Mean macro-F1 less that without a trunk, seed by seed, on the seeds that both have."""
    found = macro_f1(out)
    bare = found.get(0, {})
    table = Table(title="mean macro-F1 less that of m = 0, points", title_justify="left")
    for name in ("m", *(f"seed {seed}" for seed in bare), "mean"):
        table.add_column(name)
    for depth, points in found.items():
        costs = {seed: points[seed] - bare[seed] for seed in bare if seed in points}
        told = [f"{costs[seed]:+.2f}" if seed in costs else "–" for seed in bare]
        table.add_row(str(depth), *told, f"{np.mean(list(costs.values())):+.2f}" if costs else "–")
    Console(width=120).print(table)


def speed(depths: Sequence[int], rounds: int) -> Iterator[Ratio]:
    """Answers, and joint steps with the trunk's states known, beside those without a trunk."""
    some = batches(load_backbone(BackboneSettings()), texts(96))
    answers, step = through(mixture(5, 16, 0), some), Step(mixture(5, 16, 0), JOINT, some, cached=True)
    for depth in depths:
        model = mixture(5, 16, depth)
        yield compare(f"{ANSWERS}, m = {depth}: m = 0", through(model, some), answers, "–", rounds)
        ours = Step(mixture(5, 16, depth), JOINT, some, cached=True)
        yield compare(f"{STEP}, m = {depth}: m = 0", ours, step, "–", rounds)


def show_routing(args: argparse.Namespace) -> None:
    """Right domain for held-out texts, by logistic regression on a summary of the trunk's states at each depth."""
    sets = [f"data.folder={args.data}", f"seed={args.seeds[0]}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / "routing")
    parts = [work.rows(name) for name in ("train", "test")]
    some = [rows.select(range(0, len(rows), max(1, len(rows) // 4000))) for rows in parts]
    table = Table("m", "right domain", title=f"{len(some[0]):,} texts to learn from, {len(some[1]):,} to judge by")
    for depth in args.depths:
        model = mixture(2, 8, depth)
        (known, names), (seen, true) = [(summaries(model, rows["text"]), rows["domain"]) for rows in some]
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(known, names)
        table.add_row(str(depth), f"{probe.score(seen, true):.3f}")
    Console(width=120).print(table)


def summaries(model: Mixture, some: Sequence[str]) -> np.ndarray:
    """Nearly what the router reads of texts, (N, D): trunk states, special tokens' too, normalised and averaged."""
    found = np.zeros((len(some), model.backbone.config.hidden_size), dtype=np.float32)  # (N, D)
    order = np.argsort([len(text) for text in some])  # (N,)
    for batch in np.array_split(order, -(-len(order) // 32)):
        ids, mask = tokenize([some[i] for i in batch], model.loaded_backbone.tokenizer, "{text}", 128)
        found[batch] = mean_summary(model.encode_trunk(ids, mask)[0], mask).numpy()
    return found


def draw(out: Path, target: Path) -> None:
    """Macro-F1 by depth, each seed and the mean, beside the time of answers and of steps where that was measured."""
    from matplotlib import pyplot as plt

    plt.switch_backend("Agg")
    found = macro_f1(out)
    times = json.loads((out / SPEED).read_text(encoding="utf-8")) if (out / SPEED).is_file() else []
    figure, axes = plt.subplots(1, 2 if times else 1, figsize=(10 if times else 5, 3.6), squeeze=False)
    axis, depths = axes[0][0], list(found)
    for mark, seed in zip("os^vD", sorted({seed for one in found.values() for seed in one}), strict=False):
        shown = [depth for depth in depths if seed in found[depth]]
        axis.plot(shown, [found[depth][seed] for depth in shown], mark, color=OURS, alpha=0.45, label=f"seed {seed}")
    means = [float(np.mean(list(one.values()))) for one in found.values()]
    axis.plot(depths, means, color=OURS, lw=2, label="mean")
    axis.axhline(means[0] - MAY_COST, color=WANTED, lw=1.2, ls="--", label=f"{MAY_COST} below m = {depths[0]}")
    axis.set_ylabel("macro-F1 on test rows, mean of the tasks")
    if times:
        for kind, color, mark in ((ANSWERS, OURS, "o"), (STEP, FLOOR, "s")):
            mine = [
                (int(one["name"].split("m = ")[1][0]), one["ratio"]) for one in times if one["name"].startswith(kind)
            ]
            axes[0][1].plot(*zip(*mine, strict=True), f"{mark}-", color=color, label=kind)
        axes[0][1].set_ylabel("time, as a share of that at m = 0")
        axes[0][1].set_ylim(0, 1.1)
    for one in axes[0]:
        one.set_xlabel("trunk depth m (of 6 layers)")
        one.set_xticks(depths)
        one.grid(color="0.92")
        one.legend(frameon=False, fontsize=8)
        one.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(target, dpi=130, bbox_inches="tight")


if __name__ == "__main__":
    main()
