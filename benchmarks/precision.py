"""How often bfloat16 gives the label that fp32 gives, on real texts, soft and hard.

Run: `python benchmarks/precision.py --model FOLDER --data FILE [FILE …] [--rows 2000] [--json FILE]`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from paired_timing import texts
from rich.console import Console
from rich.table import Table

from moe.inference.loading import ModelLoader
from moe.inference.predictor import Prediction, Routing
from moe.inference.stream import predict_texts


def answers(model: Path, dtype: str, routing: Routing, some: list[str]) -> list[Prediction]:
    """Answers of one precision."""
    return predict_texts(some, ModelLoader(model, (f"backbone.dtype={dtype}",), routing).load())


def agreement(model: Path, routing: Routing, some: list[str]) -> dict[str, Any]:
    """Share of equal labels, of equal tasks, and the largest difference of a probability where the task is one."""
    pairs = list(zip(*(answers(model, dtype, routing, some) for dtype in ("float32", "bfloat16")), strict=True))
    same_task = [(a, b) for a, b in pairs if a.task == b.task]
    return {
        "routing": routing,
        "texts": len(pairs),
        "labels": float(np.mean([a.label == b.label for a, b in pairs])),
        "tasks": len(same_task) / len(pairs),
        "difference": max(float(np.abs(a.probabilities - b.probabilities).max()) for a, b in same_task),
    }


def main() -> None:
    """Measure both routings and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    some = texts(args.rows, args.data)
    routings: tuple[Routing, ...] = ("soft", "hard")
    found = [agreement(args.model, routing, some) for routing in routings]
    table = Table("routing", "texts", "equal labels", "equal tasks", "largest difference of a probability")
    for one in found:
        table.add_row(
            one["routing"], str(one["texts"]), f"{one['labels']:.4f}", f"{one['tasks']:.4f}", f"{one['difference']:.3f}"
        )
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
