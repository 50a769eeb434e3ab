"""Scoring of whole datasets, part by part: each part of the output is whole or absent, and what is there is not redone.

Who works the parts off is an engine: one process here, many with Ray in `moe.inference.bulk.ray`. Files may lie in any
store that fsspec knows. Rows are read and answered as `moe infer` does.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from experts.errors import Fault
from moe.console import bar, info, told_time
from moe.inference.bulk.ray import predict_shards_with_ray
from moe.inference.bulk.shards import STAGED, BulkJob, Row, predict_shard, read_plan, load_predictor, count_rows, stage_shards, read_staged_rows
from moe.inference.stream import predict_rows

TRIAL_ROWS = 1_024
"""Rows that are answered beforehand, to tell how long all will take."""
ENGINES = ("local", "ray")
WorkOff = Callable[[BulkJob, Sequence[int], int, int | None], Iterator[int]]


def check_bulk_paths(engine: str, source: str | None, out: str | None, texts: bool, spreadsheet: bool) -> tuple[str, str]:
    """The dataset and the folder that `moe infer --engine` was given.

    Raises:
        Fault: when the engine is none, either is missing, or something is asked that parts have not.
    """
    if engine not in ENGINES:
        raise Fault(f"--engine {' or '.join(ENGINES)}", repr(engine), "name one of them")
    if texts or spreadsheet:
        raise Fault("--file and --out alone with --engine", "texts" if texts else "--spreadsheet", "leave it out")
    if source is None or out is None or Path(out).suffix:
        found = "no --file" if source is None else "no --out" if out is None else f"--out {out}, which ends as a file"
        raise Fault("a dataset (--file) and a folder for its parts (--out) with --engine", found, "name both")
    return source, out


def run_bulk(bulk: BulkJob, engine: str, workers: int = 1, threads: int | None = None) -> Row:
    """Answer a dataset into a folder of parts, going on where an earlier call stopped.

    Returns:
        `rows` and `parts` of all, `answered` rows of this call, `seconds` that it took, `folder`.

    Raises:
        Fault: when the folder holds another job, files or model cannot be read, or a part cannot be written.
    """
    plan = read_plan(bulk) or stage_shards(bulk)
    todo = [part for part in range(plan["parts"]) if not bulk.store.has(bulk.name(part))]
    start, answered = time.perf_counter(), 0
    if todo:
        if not bulk.store.has(STAGED):  # all was answered once, and a part taken away
            stage_shards(bulk)
        work = _engine(engine)
        actors, each = (workers, threads or 1) if work is predict_shards_with_ray else (1, threads or torch.get_num_threads())
        _tell(bulk, plan, todo, actors, each)
        with bar("infer", count_rows(plan, todo), "text") as meter:
            for count in work(bulk, todo, actors, each):
                answered += count
                meter.advance(count)
    bulk.store.remove(STAGED)
    seconds = time.perf_counter() - start
    return {
        "rows": plan["rows"],
        "parts": plan["parts"],
        "answered": answered,
        "seconds": round(seconds, 3),
        "folder": bulk.out,
    }


def _engine(name: str) -> WorkOff:
    """Who works parts off; without Ray this process does."""
    if name == "ray":
        if find_spec("ray") is not None:
            return predict_shards_with_ray
        info("Ray is not installed (pip install 'finmoe[ray]'): answering in one process")
    return predict_shards_locally


def _tell(bulk: BulkJob, plan: Row, todo: list[int], workers: int, threads: int) -> None:
    """Say how fast rows are answered here, and how long those that are left will take; a bad model shows now."""
    torch.set_num_threads(threads)
    predictor = load_predictor(bulk)
    rows = read_staged_rows(bulk, todo[0])[:TRIAL_ROWS]
    list(predict_rows(rows[:8], predictor, bulk.domain, bulk.task))  # what is made once
    start = time.perf_counter()
    list(predict_rows(rows, predictor, bulk.domain, bulk.task))
    speed, left = len(rows) / (time.perf_counter() - start), count_rows(plan, todo)
    whose = "" if workers == 1 else f" a worker, {workers} workers"
    takes = told_time(left / speed / workers)
    info(f"{left:,} of {plan['rows']:,} rows to answer at {speed:,.0f} rows/s{whose}: about {takes}")


def predict_shards_locally(bulk: BulkJob, todo: Sequence[int], workers: int, threads: int | None) -> Iterator[int]:
    """Answer parts one by one in this process; gives the rows of each."""
    if threads:
        torch.set_num_threads(threads)
    predictor = load_predictor(bulk)
    for part in todo:
        yield predict_shard(bulk, predictor, part)


def bulk_summary(found: Row) -> str:
    """A line for people at the end."""
    speed = found["answered"] / max(found["seconds"], 1e-9)
    return (
        f"{found['answered']:,} rows answered in {told_time(found['seconds'])} ({speed:,.0f}/s), "
        f"{found['rows']:,} in {found['parts']} parts in {found['folder']}"
    )
