"""How deep the trunk may be: accuracy and time of one expert on all domains, layers from m up, m = 0 … 4, seed by seed.

Run: `python benchmarks/trunk.py --data FOLDER`; it goes on where it stopped, and prints the table of what is there.
"""

import argparse
import time
from pathlib import Path

from real import Book, judged_alone, options, show

from moe.config import load_run
from moe.steps import train_shared
from moe.workspace import Workspace

DEPTHS = (0, 1, 2, 3, 4)


def main() -> None:
    """Measure what is missing, then print everything."""
    parser = options(__doc__, Path("runs/trunk"))
    parser.add_argument("--depths", type=int, nargs="*", default=DEPTHS)
    args = parser.parse_args()
    for seed in [] if args.print_only else args.seeds:
        for depth in args.depths:
            measure(args, seed, depth)
    show(args.out)


def measure(args: argparse.Namespace, seed: int, depth: int) -> None:
    """Train and judge one expert on all domains above a trunk of `depth` layers."""
    sets = [f"data.folder={args.data}", f"seed={seed}", f"backbone.trunk_depth={depth}", *args.sets]
    work = Workspace(load_run(args.config, sets), args.out / f"{seed}-{depth}")
    work.rows("train")
    started = time.monotonic()
    train_shared(work, resume=True)
    spent = time.monotonic() - started
    book = Book(args.out / f"results-{seed}.jsonl", seed)
    book.once(f"trunk of {depth}", lambda: [judged_alone(work, "shared")])
    if spent > 1:
        print(f"seed {seed}, trunk of {depth}: {spent:.0f} s of training", flush=True)


if __name__ == "__main__":
    main()
