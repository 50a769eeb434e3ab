"""The mixture beside its bare backbone, beside other ways to do the same, and a training step beside PEFT's.

Run: `python benchmarks/engine.py [--only inference training growth] [--threads N] [--json FILE]`. Every pair is timed
in turns in one process (A B A B …), a ratio is of medians, and each comes with an A/A control.
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import torch
from inference import growth, inference
from pairs import Ratio, machine, show
from rich.console import Console
from rich.table import Table
from training import training


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", default=["inference", "training", "growth"])
    parser.add_argument("--dtypes", nargs="*", default=["float32"], help="float32 bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; by default its own choice")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console = Console(width=160)
    found: list[Ratio] = []
    for dtype in args.dtypes if "inference" in args.only else ():
        found += show(inference(dtype, args.rounds), console)
    if "training" in args.only:
        found += show(training(args.rounds), console)
    if "growth" in args.only:
        found += show(growth(), console)
    table = Table("ours: other", "ratio", "wanted", "floor", "ours s", "other s", "A/A")
    for one in found:
        told = f"{one.floor:.3f}" if one.floor else "–"
        table.add_row(
            one.name, f"{one.ratio:.3f}", one.target, told, f"{one.ours:.3f}", f"{one.other:.3f}", f"{one.control:.3f}"
        )
    console.print(table)
    if args.json:
        told = {"machine": machine(), "ratios": [asdict(one) | {"ratio": one.ratio} for one in found]}
        args.json.write_text(json.dumps(told, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
