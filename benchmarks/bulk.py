"""A million rows by `moe infer --engine local` and `--engine ray`: rows per second, peak memory, and a killed worker.

Run: `python benchmarks/bulk.py [--rows 10000 100000 1000000] [--engines local ray] [--workers 2] [--model MODEL]`. The
model is a mixture of untrained experts on a tiny backbone, so that the time is that of reading, routing, batches and
writing; `--model ready` takes the ready mixture instead. Each call is a process of its own, and its seconds include its
start; the time per further row does not. Peak memory is the largest sum of the unique memory of that process and all
its children.

With `--kill`, a call is disturbed when a third of the shards are written: the process of the local engine is killed and
started again, and one of Ray's actors is killed. Then every row must be there once, in order, with the label of the
undisturbed call.
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from paired_timing import build_untrained_with_card, load_texts
from rich.console import Console
from rich.table import Table
from scale import write_random_backbone

from moe.checkpoints.mixture import write_mixture
from moe.model.backbone import BackboneSettings

INTERVAL = 0.2
"""Seconds between two readings of the memory."""
ACTOR = "MapWorker"
"""Part of the command line of an actor of Ray Data."""


@dataclass(frozen=True)
class Bulk:
    """The measured calls.

    Args:
        model: folder or name of the model.
        folder: for inputs and outputs.
        part_rows: rows of a shard.
        workers: actors of Ray.
    """

    model: str
    folder: Path
    part_rows: int
    workers: int

    def write_input(self, rows: int) -> Path:
        """Write a parquet file of short texts with ids."""
        path = self.folder / f"{rows}.parquet"
        texts = [text[:60] for text in load_texts(1000)]
        columns = {"id": [str(i) for i in range(rows)], "text": [texts[i % len(texts)] for i in range(rows)]}
        pq.write_table(pa.table(columns), path)
        return path

    def start(self, engine: str, rows: int, out: Path) -> psutil.Popen:
        """Start a call of `moe infer`."""
        files = ["--file", str(self.folder / f"{rows}.parquet"), "--out-dir", str(out)]
        options = ["--engine", engine, "--part-rows", str(self.part_rows)]
        actors = ["--workers", str(self.workers), "--threads", "1"] if engine == "ray" else []
        command = [sys.executable, "-m", "moe", "infer", "--model", self.model, *files, *options, *actors]
        return psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


@dataclass(frozen=True)
class Call:
    """A measured call.

    Args:
        seconds: from the start of the process to its end.
        mib: peak memory.
    """

    engine: str
    rows: int
    seconds: float
    mib: float


def main() -> None:
    """Measure every engine and number of rows, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--engines", nargs="*", choices=("local", "ray"), default=["local", "ray"])
    parser.add_argument("--part-rows", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2, help="actors of Ray, of one thread each")
    parser.add_argument("--model", help="a model, e.g. ready; default: untrained experts on a tiny backbone")
    parser.add_argument("--kill", action="store_true", help="disturb a call of each engine, with the most rows")
    args = parser.parse_args()
    console = Console(width=140)
    with TemporaryDirectory() as name:
        bulk = Bulk(args.model or str(write_tiny_model(Path(name))), Path(name), args.part_rows, args.workers)
        calls = []
        for rows in args.rows:
            bulk.write_input(rows)
            calls += [measure(bulk, engine, rows) for engine in args.engines]
        console.print(build_table(calls))
        if args.kill:
            for engine in args.engines:
                console.print(disturb(bulk, engine, max(args.rows)))


def write_tiny_model(folder: Path) -> Path:
    """Write a mixture of five untrained experts on a tiny backbone with random weights."""
    backbone = write_random_backbone("tiny", folder / "backbone")
    settings = BackboneSettings(name=str(backbone), dtype="float32", pooling="mean", max_length=16)
    model, card = build_untrained_with_card(5, 8, settings)
    write_mixture(folder / "mixture", model, card, "", {})
    return folder / "mixture"


def measure(bulk: Bulk, engine: str, rows: int) -> Call:
    """Run a call, and measure its time and memory."""
    start, peak = time.perf_counter(), 0.0
    process = bulk.start(engine, rows, bulk.folder / f"{engine}-{rows}")
    while process.poll() is None:
        peak = max(peak, memory_mib(process))
        time.sleep(INTERVAL)
    seconds = time.perf_counter() - start
    finish(process)
    return Call(engine, rows, seconds, peak)


def memory_mib(process: psutil.Process) -> float:
    """Return the unique memory of a process and its children, which no other process shares."""
    total = 0
    for member in family(process):
        try:
            total += member.memory_full_info().uss
        except psutil.Error:  # it has just ended
            continue
    return total / 2**20


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all its children; empty if it has ended."""
    try:
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def finish(process: psutil.Popen) -> None:
    """Wait for a call.

    Raises:
        RuntimeError: if it failed.
    """
    _, messages = process.communicate()
    if process.returncode:
        raise RuntimeError(f"moe infer ended with status {process.returncode}: {messages[-2000:]}")


def disturb(bulk: Bulk, engine: str, rows: int) -> str:
    """Kill a worker of a call, finish the job, compare it with the undisturbed one, and describe the result.

    Raises:
        AssertionError: if a row is lost, is there twice, or has another label.
    """
    out = bulk.folder / f"{engine}-{rows}-killed"
    process = bulk.start(engine, rows, out)
    wait_for_shards(process, out, -(-rows // bulk.part_rows) // 3)
    if engine == "local":
        process.kill()
        process.communicate()
        written = len(shards(out))
        finish(bulk.start(engine, rows, out))
        outcome = f"killed with {written} shards written, and started again"
    else:
        actor = next(member for member in family(process) if ACTOR in " ".join(member.cmdline()))
        os.kill(actor.pid, signal.SIGKILL)
        finish(process)
        outcome = f"one of {bulk.workers} actors killed"
    check_answers(engine, rows, out, read_answers(bulk.folder / f"{engine}-{rows}"))
    return f"{engine}, {rows:,} rows: {outcome}; every row is there once, with the label of the undisturbed call"


def check_answers(engine: str, rows: int, out: Path, expected: pa.Table) -> None:
    """Compare the answers of a job with those of the undisturbed one.

    Raises:
        AssertionError: if a row is lost, is there twice, or has another label.
    """
    answers = read_answers(out)
    assert answers["id"].to_pylist() == [str(i) for i in range(rows)], f"{engine}: rows are lost, or there twice"
    assert answers.equals(expected), f"{engine}: labels differ from those of the undisturbed call"


def wait_for_shards(process: psutil.Popen, out: Path, count: int) -> None:
    """Wait until a call has written some shards.

    Raises:
        RuntimeError: if it ends before.
    """
    while len(shards(out)) < max(1, count):
        if process.poll() is not None:
            finish(process)
            raise RuntimeError("the call ended before a worker could be killed; give more --rows, or fewer --part-rows")
        time.sleep(INTERVAL / 10)


def shards(out: Path) -> list[Path]:
    """Return the finished shards of a job."""
    return sorted(out.glob("part-*.parquet"))


def read_answers(out: Path) -> pa.Table:
    """Return ids and labels of all shards, in order."""
    return pa.concat_tables([pq.read_table(path, columns=["id", "label"]) for path in shards(out)])


def build_table(calls: Sequence[Call]) -> Table:
    """Build the table of the calls, each compared with the first and with the one before of its engine."""
    table = Table(
        "engine", "rows", "seconds", "rows/s", "µs per further row", "peak, MiB", "times the first: time", "memory"
    )
    for engine in dict.fromkeys(call.engine for call in calls):
        own = [call for call in calls if call.engine == engine]
        for before, call in zip([None, *own], own, strict=False):
            growth = ["", "", ""]
            if before is not None:
                further = 1e6 * (call.seconds - before.seconds) / (call.rows - before.rows)
                growth = [f"{further:,.0f}", f"{call.seconds / own[0].seconds:.2f}", f"{call.mib / own[0].mib:.2f}"]
            figures = [f"{figure:,.0f}" for figure in (call.rows, call.seconds, call.rows / call.seconds, call.mib)]
            table.add_row(engine, *figures[:3], growth[0], figures[3], *growth[1:])
    return table


if __name__ == "__main__":
    main()
