"""The mixture beside its bare backbone, beside other ways to do the same, and a training step beside PEFT's.

Run: `python benchmarks/engine.py [--only inference pipeline training growth workers] [--texts FILE …] [--threads N]
[--json FILE]`. Every pair is timed in turns (A B A B …); a ratio is the median of the rounds' own, and each comes with
an A/A control.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from inference import inference, pipelines
from paired_timing import Ratio, machine, show, texts
from rich.console import Console
from rich.table import Table
from throughput import growth, workers
from training import training

PARTS = ("inference", "pipeline", "training", "growth", "workers")


def asked(args: argparse.Namespace, some: Sequence[str]) -> Iterator[Iterator[Ratio]]:
    """The measurements, each when its turn comes."""
    for dtype in args.dtypes:
        if "inference" in args.only:
            yield inference(some, dtype, args.rounds)
        if "training" in args.only:
            yield training(some[:96], dtype, -(-args.rounds // 2))
    if "pipeline" in args.only:
        yield pipelines(some[:300], -(-args.rounds // 3))
    if "growth" in args.only:
        yield growth(some)
    if "workers" in args.only:
        yield workers(some)


def main() -> None:
    """Measure what was asked for and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument("--texts", type=Path, nargs="*", default=(), help="files with a text column; else the sample's")
    parser.add_argument("--dtypes", nargs="*", default=["float32"], help="float32 bfloat16")
    parser.add_argument(
        "--rounds", type=int, default=15, help="of short measurements; a half or a third of it of longer ones"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; by default its own choice")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console, some = Console(width=160), texts(1000, args.texts)
    found: list[Ratio] = []
    for ratios in asked(args, some):
        found += show(ratios, console)
    table = Table("ours: other", "ratio", "best", "wanted", "floor", "ours s", "other s", "A/A")
    for one in found:
        figures = [f"{one.ratio:.3f}", _told(one.best), one.target, _told(one.floor)]
        table.add_row(one.name, *figures, *map(_told, (one.ours, one.other, one.control)))
    console.print(table)
    if args.json:
        whole = {
            "machine": machine(),
            "texts": [path.name for path in args.texts] or "sample",
            "ratios": [asdict(one) | {"ratio": one.ratio} for one in found],
        }
        args.json.write_text(json.dumps(whole, indent=2), encoding="utf-8")


def _told(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"


if __name__ == "__main__":
    main()
