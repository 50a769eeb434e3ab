"""Run the parts of the CUDA check and print one table and one JSON; `benchmarks/cuda.sh` starts it.

Each part appends its comparisons to `results.jsonl` when it is finished, and a later call skips it. A further part is a
generator of comparisons in a file of its own, named in `PARTS`.
"""

import argparse
import json
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from equality import measure_routing
from gradients import measure_gradients
from inference_speed import measure_inference_speed
from mission import measure_large, measure_mission
from models import Bench, Size
from paired_timing import machine_info
from predictions import append_line, read_lines
from resume import measure_resume
from rich.console import Console
from rich.table import Table
from training_speed import measure_training_speed

from moe.console import suppress_output
from moe.model.backbone import loading_messages

Part = Callable[[Bench], Iterator[dict[str, Any]]]
PARTS: dict[str, Part] = {
    **{f"equality-{kind}": partial(measure_routing, routing=kind) for kind in ("soft", "hard", "team", "token")},
    "gradients": measure_gradients,
    "resume": measure_resume,
    "inference-bf16": partial(measure_inference_speed, quantized=False),
    "inference-nf4": partial(measure_inference_speed, quantized=True),
    "training-bf16": partial(measure_training_speed, quantized=False),
    "training-nf4": partial(measure_training_speed, quantized=True),
    "mission-encoder": partial(measure_mission, shape="bert-110m"),
    "mission-decoder": partial(measure_mission, shape="llama-1b"),
    "mission-9b": partial(measure_large, shape="glm-9b"),
}


def main() -> None:
    """Run the parts that are not finished, and print all results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/cuda"), help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--size", choices=("full", "toy"), help="by default full on a GPU, else toy")
    parser.add_argument("--print-only", action="store_true", help="print the results so far")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size: Size = args.size or ("full" if device == "cuda" else "toy")
    results = args.out / "results.jsonl"
    parts = args.parts.split(",")
    if unknown := [name for name in parts if name not in PARTS]:
        sys.exit(f"expected parts among {', '.join(PARTS)}; found {', '.join(unknown)}")
    finished = {
        line["part"]
        for line in read_lines(results)
        if (line["size"], line["device"], line["error"]) == (size, device, None)
    }
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), size, device)
        for name in parts:
            if not args.print_only and name not in finished:
                append_line(results, measure(name, bench))
    lines = newest(read_lines(results))
    report = {"machine": machine_info(), "parts": lines}
    print(json.dumps(report))
    (args.out / "cuda.json").write_text(json.dumps(report, indent=2), encoding="utf-8")
    print_table(lines)
    failed = [line["part"] for line in lines if line["error"] or not all(map(passed, line["comparisons"]))]
    sys.exit(f"failed: {', '.join(failed)}" if failed else 0)


def measure(name: str, bench: Bench) -> dict[str, Any]:
    """Return the comparisons of a part, and the error that ended it, if any."""
    start, error = perf_counter(), None
    comparisons: list[dict[str, Any]] = []
    try:
        with suppress_output(), loading_messages(shown=False):
            comparisons.extend(PARTS[name](bench))
    except Exception as problem:
        traceback.print_exc()
        error = f"{type(problem).__name__}: {' '.join(str(problem).split())[:300]}"
    seconds = round(perf_counter() - start, 1)
    print(f"{name}: {seconds} s", flush=True)
    line = {"part": name, "size": bench.size, "device": bench.device, "seconds": seconds}
    return line | {"comparisons": comparisons, "error": error}


def newest(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last result of each part, size and device."""
    return list({(line["part"], line["size"], line["device"]): line for line in lines}.values())


def passed(comparison: dict[str, Any]) -> bool:
    """Whether a comparison is within its limits; true if it was skipped, or has none, such as a time."""
    return bool(comparison.get("passed", True))


def print_table(parts: list[dict[str, Any]]) -> None:
    """Print a row for each comparison."""
    table = Table("part", "device", "measured", "result", "within limits", "s")
    for part in parts:
        for comparison in part["comparisons"]:
            figures = {key: value for key, value in comparison.items() if key not in ("routing", "precision", "passed")}
            cells = [
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()
            ]
            verdict = "–" if "passed" not in comparison else "yes" if comparison["passed"] else "NO"
            where = f"{part['device']}, {part['size']}"
            table.add_row(part["part"], where, comparison["precision"], ", ".join(cells), verdict, str(part["seconds"]))
        if part["error"]:
            table.add_row(part["part"], part["device"], "", part["error"], "NO", str(part["seconds"]))
    Console(width=150).print(table)


if __name__ == "__main__":
    main()
