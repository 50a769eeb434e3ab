"""How often bfloat16 predicts the same label as fp32 on real texts, with soft and with hard routing.

Run: `python benchmarks/precision.py --model FOLDER --data FILE [FILE …] [--rows 2000] [--json FILE]`.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from paired_timing import load_texts
from rich.console import Console
from rich.table import Table

from moe.inference.load import LoadOptions, load
from moe.inference.predictor import Prediction
from moe.inference.stream import predict_texts
from moe.model.mode import Routing
from moe.runs.model_ref import resolve


def predict(model: Path, dtype: str, routing: Routing, texts: list[str]) -> list[Prediction]:
    """Return predictions in one precision."""
    return predict_texts(texts, load(resolve(model), LoadOptions(sets=(f"backbone.dtype={dtype}",), routing=routing)))


def measure_agreement(model: Path, routing: Routing, texts: list[str]) -> dict[str, Any]:
    """Return the shares of equal labels and tasks, and the largest difference of a probability if tasks are equal."""
    pairs = list(zip(*(predict(model, dtype, routing, texts) for dtype in ("float32", "bfloat16")), strict=True))
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
    parser.add_argument("--model", type=Path, required=True, help="folder of a mixture")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="files with a text column")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    texts = load_texts(args.rows, args.data)
    routings: tuple[Routing, ...] = ("soft", "hard")
    reports = [measure_agreement(args.model, routing, texts) for routing in routings]
    table = Table("routing", "texts", "equal labels", "equal tasks", "largest difference of a probability")
    for report in reports:
        table.add_row(
            report["routing"],
            str(report["texts"]),
            f"{report['labels']:.4f}",
            f"{report['tasks']:.4f}",
            f"{report['difference']:.3f}",
        )
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(reports, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
