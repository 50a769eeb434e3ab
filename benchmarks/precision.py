"""How often bfloat16 predicts the same label as fp32 on real texts, with soft and with hard routing, and its speed.

Run: `python benchmarks/precision.py --model FOLDER --data FILE [FILE …] [--rows 2000] [--json FILE]`. The speed is that
of soft routing on `--timed` texts with PyTorch, alternating, and beside the fp32 graph if the model has one.
"""

import argparse
import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from paired_timing import Ratio, compare, load_texts
from rich.console import Console
from rich.table import Table

from moe.inference.graph.spec import GRAPH_FOLDER
from moe.inference.load import LoadOptions, Runtime, load
from moe.inference.predictor import Prediction, Predictor
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


def measure_speed(model: Path, texts: list[str], rounds: int) -> list[Ratio]:
    """Time bfloat16 against fp32 and against the graph."""

    def scorer(runtime: Runtime, *sets: str) -> Predictor:
        return load(resolve(model), LoadOptions(sets=sets, routing="soft", runtime=runtime))

    half = scorer("torch", "backbone.dtype=bfloat16")
    others = {"fp32": scorer("torch", "backbone.dtype=float32")}
    if (model / GRAPH_FOLDER).is_dir():
        others["the graph, fp32"] = scorer("onnx")
    return [
        compare(
            f"bfloat16: {name}", partial(predict_texts, texts, half), partial(predict_texts, texts, other), "–", rounds
        )
        for name, other in others.items()
    ]


def main() -> None:
    """Measure both routings and the speed, and print tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="folder of a mixture")
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="files with a text column")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--timed", type=int, default=300, help="texts of a round; 0 measures no speed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch's threads; default: torch's choice")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    model = resolve(args.model).folder
    texts = load_texts(args.rows, args.data)
    routings: tuple[Routing, ...] = ("soft", "hard")
    reports = [measure_agreement(model, routing, texts) for routing in routings]
    table = Table("routing", "texts", "equal labels", "equal tasks", "largest difference of a probability")
    for report in reports:
        table.add_row(
            report["routing"],
            str(report["texts"]),
            f"{report['labels']:.4f}",
            f"{report['tasks']:.4f}",
            f"{report['difference']:.3f}",
        )
    console = Console(width=100)
    console.print(table)
    speed = measure_speed(model, texts[: args.timed], args.rounds) if args.timed else []
    if speed:
        table = Table("soft routing", "ratio of times", "of the fastest rounds", "A/A")
        for ratio in speed:
            table.add_row(ratio.name, *(f"{figure:.2f}" for figure in (ratio.ratio, ratio.best or 0.0, ratio.control)))
        console.print(table)
    if args.json:
        report = {"agreement": reports, "speed": [asdict(ratio) for ratio in speed]}
        args.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
