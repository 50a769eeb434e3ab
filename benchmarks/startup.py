"""Time until the first prediction: `moe infer` and transformers' pipeline on one text, as processes; then many texts.

Run: `python benchmarks/startup.py [--model FOLDER] [--rounds N] [--texts N] [--cold] [--json FILE]`. Results are
medians of wall time in seconds, and texts per second on `--texts` synthetic texts. Each round is a fresh process.
Without a model folder, an untrained mixture on the shipped backbone is written to a temporary folder, with its graph.
`--cold` also measures with an empty page cache, which slows everything else on the machine down for a while. At the end
it prints how much of the PyTorch path's start each package's import takes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

TEXT = "Profit fell less than feared."
MOE = (sys.executable, "-m", "moe")
MIN_IMPORT = 0.05
"""Seconds of import below which a package is not listed."""
DROP_CACHES = Path("/proc/sys/vm/drop_caches")
PIPELINE = f"""
import sys
from transformers import pipeline
print(pipeline("text-classification", model=sys.argv[1], device="cpu")({TEXT!r}))
"""
THROUGHPUT = """
import json, sys, time
from pathlib import Path
from moe.inference.load import LoadOptions, load, load_torch
from moe.runs.model_ref import resolve
folder, runtime, sets, count = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), int(sys.argv[4])
from moe.synthetic import generate
texts = [row["text"] for domain in ("news", "forum") for row in generate(domain, count // 2)]
predictor = load(resolve(Path(folder)), LoadOptions(sets=tuple(sets), runtime=runtime))
predictor.score(texts[:64])
seconds = []
for _ in range(3):
    start = time.perf_counter()
    for first in range(0, len(texts), predictor.chunk_size):
        predictor.score(texts[first : first + predictor.chunk_size])
    seconds.append(time.perf_counter() - start)
print(len(texts) / sorted(seconds)[1])
"""


def run(command: Sequence[str]) -> str:
    """Run a process and return its standard output."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def time_processes(command: Sequence[str], rounds: int, cold: bool = False) -> float:
    """Return the median seconds of a process from start to end; the first round is not counted if caches are warm."""
    seconds = []
    for _ in range(rounds if cold else rounds + 1):
        if cold:
            drop_caches()
        start = time.perf_counter()
        run(command)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds if cold else seconds[1:])


def import_seconds(command: Sequence[str]) -> dict[str, float]:
    """Return the seconds that a process spends in importing each top-level package, without what those import."""
    traced = [command[0], "-X", "importtime", *command[1:]]
    lines = subprocess.run(traced, check=True, capture_output=True, text=True).stderr.splitlines()
    seconds: dict[str, float] = {}
    for line in lines:
        own, _, name = line.removeprefix("import time:").split("|") if line.count("|") == 2 else ("", "", "")
        if own.strip().isdigit():
            package = name.strip().partition(".")[0]
            seconds[package] = seconds.get(package, 0.0) + int(own) / 1e6
    return dict(sorted(seconds.items(), key=lambda item: -item[1]))


def drop_caches() -> None:
    """Remove the files of Python, its packages and the backbone from the page cache, or everything where permitted."""
    try:
        DROP_CACHES.write_text("3", encoding="utf-8")
    except OSError:
        for path in installed_files():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def installed_files() -> Iterator[Path]:
    """Yield the files of the standard library and of all packages."""
    for folder in {sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        yield from (path for path in Path(folder).rglob("*") if path.is_file())


def write_untrained(folder: Path) -> Path:
    """Write a mixture of two untrained experts with its graph, and return its folder."""
    from paired_timing import build_untrained_with_card  # slow to import

    from moe.checkpoints.mixture import write_mixture
    from moe.export.graph import write_graph
    from moe.model.backbone import BackboneSettings

    model, card = build_untrained_with_card(2, 16, BackboneSettings(trunk_depth=1))
    write_mixture(folder / "moe", model, card, "", {})
    start = time.perf_counter()
    write_graph(folder / "moe")
    print(f"graph written in {time.perf_counter() - start:.1f} s, without imports")
    return folder / "moe"


def write_classifier(folder: Path) -> Path:
    """Write the shipped backbone with a new classification head, as transformers saves it, and return its folder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # slow to import

    from moe.model.backbone_files import shipped_folder

    model = AutoModelForSequenceClassification.from_pretrained(shipped_folder(), num_labels=3)
    model.save_pretrained(folder / "classifier")
    AutoTokenizer.from_pretrained(shipped_folder()).save_pretrained(folder / "classifier")
    return folder / "classifier"


def measure_processes(model: Path, classifier: Path, rounds: int, cold: bool) -> dict[str, float]:
    """Return the median seconds of each process."""
    infer = (*MOE, "infer", TEXT, "--model", str(model))
    pipeline = (sys.executable, "-c", PIPELINE, str(classifier))
    seconds = {
        "empty Python process": time_processes((sys.executable, "-c", ""), rounds),
        "moe --help": time_processes((*MOE, "--help"), rounds),
        "moe infer, graph": time_processes((*infer, "--runtime", "onnx"), rounds),
        "moe infer, PyTorch": time_processes((*infer, "--runtime", "torch"), rounds),
        "transformers' pipeline": time_processes(pipeline, rounds),
    }
    if cold:
        seconds["moe infer, graph, cold"] = time_processes((*infer, "--runtime", "onnx"), rounds, cold=True)
        seconds["transformers' pipeline, cold"] = time_processes(pipeline, rounds, cold=True)
    for end in ("", ", cold")[: 1 + cold]:
        seconds[f"pipeline / graph{end}"] = seconds[f"transformers' pipeline{end}"] / seconds[f"moe infer, graph{end}"]
    return seconds


def print_imports(seconds: Mapping[str, float]) -> None:
    """Print the import time of the packages that take longest, and of all others together."""
    table = Table("moe infer, PyTorch: imports of", "seconds")
    for package, value in seconds.items():
        if value >= MIN_IMPORT:
            table.add_row(package, f"{value:.2f}")
    table.add_row("all others", f"{sum(value for value in seconds.values() if value < MIN_IMPORT):.2f}")
    Console(width=100).print(table)


def measure_throughput(model: Path, texts: int) -> dict[str, float]:
    """Return texts per second of each runtime, without loading."""
    kinds = {
        "texts/s, graph": ("onnx", []),
        "texts/s, PyTorch, fp32": ("torch", ["backbone.dtype=float32"]),
        "texts/s, PyTorch, auto": ("torch", []),
    }
    arguments = {name: (str(model), runtime, json.dumps(sets), str(texts)) for name, (runtime, sets) in kinds.items()}
    return {name: float(run((sys.executable, "-c", THROUGHPUT, *words))) for name, words in arguments.items()}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a mixture with a graph")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--cold", action="store_true", help="also measure with an empty page cache")
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    if args.cold:
        everything = os.access(DROP_CACHES, os.W_OK)
        print(
            f"cold: {'everything' if everything else 'Python, its packages and the backbone'} is dropped from the cache"
        )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or write_untrained(folder)
        results = measure_processes(model, write_classifier(folder), args.rounds, args.cold)
        results |= measure_throughput(model, args.texts)
        imports = import_seconds((*MOE, "infer", TEXT, "--model", str(model), "--runtime", "torch"))
    table = Table("", "median")
    for part, value in results.items():
        table.add_row(part, f"{value:.2f}" if value < 100 else f"{value:.0f}")
    Console(width=100).print(table)
    print_imports(imports)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
