"""Where the time goes before the first answer: `moe --help`, and `moe infer` on one text part by part.

Run: `python benchmarks/startup.py [--model FOLDER] [--rounds N] [--json FILE]`. Each round is a fresh process; medians
of wall time in seconds. Without a model folder, a mixture that was never trained is written for the occasion.
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

PARTS = """
import json, sys, time
marks, start = {}, time.perf_counter()

def mark(name):
    global start
    now = time.perf_counter()
    marks[name], start = now - start, now

import torch; mark("import torch")
import transformers.modeling_utils, transformers.models.auto; mark("import transformers")
import moe.inference.infer_command, moe.inference.loading, moe.runs.best; mark("import the rest")
from pathlib import Path
opening = moe.inference.loading.ModelLoader(Path(sys.argv[1]))
from moe.checkpoints.mixture import read_card
card = read_card(opening.folder); mark("check the folder's files by hash")
from moe.model.backbone import load_backbone
load_backbone(card.backbone_settings); mark("load the backbone and tokenizer")
predictor = opening.load(); mark("open the mixture, a second backbone included")
from moe.inference.stream import predict_texts
predict_texts(["Profit fell less than feared."], predictor); mark("first answer")
predict_texts(["Profit fell less than feared."], predictor); mark("second answer")
print(json.dumps(marks))
"""


def wall(command: list[str]) -> float:
    """Seconds of a process from start to end."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def untrained(folder: Path) -> Path:
    """The folder of a mixture of two experts that were never trained."""
    from pairs import described  # beside this file; heavy

    from moe.checkpoints.mixture import write_mixture
    from moe.model.backbone import BackboneSettings

    model, card = described(2, 16, BackboneSettings(trunk_depth=1, dtype="float32"))
    write_mixture(folder / "moe", model, card, "", {})
    return folder / "moe"


def measure(model: Path, rounds: int) -> dict[str, float]:
    """Medians by part."""
    told = [
        json.loads(subprocess.run([sys.executable, "-c", PARTS, str(model)], check=True, capture_output=True).stdout)
        for _ in range(rounds)
    ]
    found = {f"infer: {part}": statistics.median(one[part] for one in told) for part in told[0]}
    moe = [sys.executable, "-m", "moe"]
    for name, command in {
        "moe --help, whole": [*moe, "--help"],
        "moe infer on one text, whole": [*moe, "infer", "Profit fell less than feared.", "--model", str(model)],
        "python alone": [sys.executable, "-c", ""],
    }.items():
        found[name] = statistics.median(wall(command) for _ in range(rounds))
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(args.model or untrained(Path(folder)), args.rounds)
    table = Table("part", "seconds")
    for name, seconds in found.items():
        table.add_row(name, f"{seconds:.2f}")
    Console(width=100).print(table)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
