"""Speed of the mixture against its bare backbone and other implementations, and of a training step against PEFT.

Run: `python benchmarks/engine.py [--only inference pipeline training growth workers] [--texts FILE …] [--threads N]
[--json FILE]`. Both sides of a pair are timed in alternation (A B A B …). A ratio is the median of the rounds' ratios;
each comes with an A/A control.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from inference import measure_inference, measure_pipeline
from paired_timing import Ratio, load_texts, machine_info, print_ratios
from rich.console import Console
from rich.table import Table
from throughput import measure_growth, measure_workers
from training import measure_training

PARTS = ("inference", "pipeline", "training", "growth", "workers")


def measurements(args: argparse.Namespace, texts: Sequence[str]) -> Iterator[Iterator[Ratio]]:
    """Yield the requested measurements; each runs when it is iterated over."""
    for dtype in args.dtypes:
        if "inference" in args.only:
            yield measure_inference(texts, dtype, args.rounds)
        if "training" in args.only:
            yield measure_training(texts[:96], dtype, -(-args.rounds // 2))
        if "pipeline" in args.only:
            yield measure_pipeline(texts[:300], dtype, -(-args.rounds // 3))
    if "growth" in args.only:
        yield measure_growth(texts)
    if "workers" in args.only:
        yield measure_workers(texts)


def main() -> None:
    """Run the requested measurements and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    parser.add_argument(
        "--texts", type=Path, nargs="*", default=(), help="files with a text column; default: the synthetic sample"
    )
    parser.add_argument("--dtypes", nargs="*", default=["float32"], help="float32 bfloat16")
    parser.add_argument(
        "--rounds", type=int, default=15, help="of short measurements; longer ones take a half or a third of it"
    )
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    console, texts = Console(width=160), load_texts(1000, args.texts)
    measured: list[Ratio] = []
    for ratios in measurements(args, texts):
        measured += print_ratios(ratios, console)
    table = Table("ours: other", "ratio", "best", "target", "floor", "ours s", "other s", "A/A")
    for ratio in measured:
        figures = [f"{ratio.ratio:.3f}", _format(ratio.best), ratio.target, _format(ratio.floor)]
        table.add_row(ratio.name, *figures, *map(_format, (ratio.ours, ratio.other, ratio.control)))
    console.print(table)
    if args.json:
        report = {
            "machine": machine_info(),
            "texts": [path.name for path in args.texts] or "sample",
            "ratios": [asdict(ratio) | {"ratio": ratio.ratio} for ratio in measured],
        }
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


def _format(figure: float | None) -> str:
    return "–" if figure is None else f"{figure:.3f}"


if __name__ == "__main__":
    main()
