"""Time until the first prediction: `moe --help`, and the parts of `moe infer` on one text.

Run: `python benchmarks/startup.py [--model FOLDER] [--rounds N] [--json FILE]`. Each round is a fresh process; results
are medians of wall time in seconds. Without a model folder, an untrained mixture is written to a temporary folder.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

TEXT = "Profit fell less than feared."
PARTS = f"""
import json, sys, time
marks, start = {{}}, time.perf_counter()

def mark(name):
    global start
    now = time.perf_counter()
    marks[name], start = now - start, now

import torch; mark("import torch")
import transformers.modeling_utils, transformers.models.auto; mark("import transformers")
import moe.inference.infer_command, moe.inference.loading, moe.runs.best; mark("import the rest")
from pathlib import Path
loader = moe.inference.loading.ModelLoader(Path(sys.argv[1]))
from moe.checkpoints.mixture import read_card
card = read_card(loader.folder); mark("verify the folder's files by hash")
from moe.model.backbone import load_backbone
load_backbone(card.backbone_settings); mark("load backbone and tokenizer")
predictor = loader.load(); mark("load the mixture, including a second backbone")
from moe.inference.stream import predict_texts
predict_texts([{TEXT!r}], predictor); mark("first prediction")
predict_texts([{TEXT!r}], predictor); mark("second prediction")
print(json.dumps(marks))
"""


def time_process(command: list[str]) -> float:
    """Return the seconds of a process from start to end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def write_untrained(folder: Path) -> Path:
    """Write a mixture of two untrained experts, and return its folder."""
    from paired_timing import build_untrained_with_card  # slow to import

    from moe.checkpoints.mixture import write_mixture
    from moe.model.backbone import BackboneSettings

    model, card = build_untrained_with_card(2, 16, BackboneSettings(trunk_depth=1, dtype="float32"))
    write_mixture(folder / "moe", model, card, "", {})
    return folder / "moe"


def measure(model: Path, rounds: int) -> dict[str, float]:
    """Return the median seconds of each part."""
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", PARTS, str(model)], check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    seconds = {f"infer: {part}": statistics.median(run[part] for run in runs) for part in runs[0]}
    moe = [sys.executable, "-m", "moe"]
    for name, command in {
        "moe --help, total": [*moe, "--help"],
        "moe infer on one text, total": [*moe, "infer", TEXT, "--model", str(model)],
        "empty Python process": [sys.executable, "-c", ""],
    }.items():
        seconds[name] = statistics.median(time_process(command) for _ in range(rounds))
    return seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a mixture")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        medians = measure(args.model or write_untrained(Path(folder)), args.rounds)
    table = Table("part", "seconds")
    for name, seconds in medians.items():
        table.add_row(name, f"{seconds:.2f}")
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(medians, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
