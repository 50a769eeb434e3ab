"""Bulk inference: the predictions of a large dataset in shards, in this process or with Ray.

Each shard is written completely or not at all, and a finished shard is not predicted again. Files may be on any storage
that fsspec knows. Rows are read and predicted as by `moe infer`.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from pathlib import Path

from experts.errors import Fault, check_choice
from experts.locks import output_lock
from moe.console import format_duration, info, progress_bar
from moe.inference.bulk.ray import predict_shards_with_ray, ray_is_installed
from moe.inference.bulk.shards import (
    STAGED,
    BulkJob,
    BulkPlan,
    ShardCount,
    count_rows,
    load_predictor,
    predict_shard,
    read_plan,
    read_staged_rows,
    stage_shards,
)
from moe.inference.stream import predict_rows

TRIAL_ROWS = 1_024
"""Number of rows that are predicted first, to estimate the duration of the job."""
ENGINES = ("local", "ray")
PredictShards = Callable[[BulkJob, Sequence[int], int, int | None], Iterator[ShardCount]]


def check_bulk_paths(
    engine: str, source: str | None, out: str | None, texts: bool, spreadsheet: bool, targets: bool = False
) -> tuple[str, str]:
    """Check the options of `moe infer --engine`.

    Returns:
        the dataset and the output folder.

    Raises:
        Fault: for an unknown engine, a missing dataset or folder, or an option that bulk inference does not have.
    """
    check_choice(engine, ENGINES, "--engine")
    if texts or spreadsheet or targets:
        option = "texts" if texts else "--target" if targets else "--spreadsheet"
        raise Fault("only --file and --out-dir with --engine", option, f"remove {option}")
    if source is None or out is None or Path(out).suffix:
        problem = (
            "no --file"
            if source is None
            else "no --out-dir"
            if out is None
            else f"--out-dir {out}, which is a file name"
        )
        raise Fault("a dataset (--file) and a folder for its shards (--out-dir) with --engine", problem, "give both")
    return source, out


@dataclass(frozen=True)
class BulkReport:
    """A finished job.

    Args:
        rows: rows of the dataset.
        parts: shards of the dataset.
        answered: rows that this call predicted.
        seconds: that it took.
        folder: the output folder.
        routing: `soft`, `pruned` or `hard`; None if this call predicted no shard.
        experts_skipped: mean share of the experts that were not computed for a row of this call, 0 to 1; None likewise.
    """

    rows: int
    parts: int
    answered: int
    seconds: float
    folder: str
    routing: str | None = None
    experts_skipped: float | None = None


def run_bulk(job: BulkJob, engine: str, workers: int = 1, threads: int | None = None) -> BulkReport:
    """Predict a dataset and write the predictions in shards; an earlier call that was stopped is resumed.

    Args:
        engine: `local` or `ray`.
        workers: number of Ray actors.
        threads: of each actor, 1 by default; of this process for the local engine.

    Raises:
        Fault: if the folder holds another job, the files or the model cannot be read, or a shard cannot be written,
            or another process writes there.
    """
    with output_lock(Path(job.out)) if "://" not in job.out else nullcontext():
        return _run_shards(job, engine, workers, threads)


def _run_shards(job: BulkJob, engine: str, workers: int, threads: int | None) -> BulkReport:
    plan = read_plan(job) or stage_shards(job)
    todo = [shard for shard in range(plan.parts) if not job.output.has(job.shard_name(shard))]
    start, counts = time.perf_counter(), list[ShardCount]()
    if todo:
        if not job.output.has(STAGED):  # the job was finished, and a shard was deleted later
            stage_shards(job)
        predict = _select_engine(engine)
        if predict is predict_shards_with_ray:
            threads = threads or 1
        else:
            workers = 1
        _print_estimate(job, plan, todo, workers, threads)
        with progress_bar("infer", count_rows(job, plan, todo), "text") as meter:
            for count in predict(job, todo, workers, threads):
                counts.append(count)
                meter.advance(count.rows)
    job.output.remove(STAGED)
    seconds = time.perf_counter() - start
    answered = sum(count.rows for count in counts)
    report = BulkReport(plan.rows, plan.parts, answered=answered, seconds=round(seconds, 3), folder=job.out)
    if not counts:
        return report
    routing = reduce(add, (count.routed for count in counts))
    return replace(report, routing=routing.routing, experts_skipped=round(routing.skipped_share, 6))


def _select_engine(name: str) -> PredictShards:
    return predict_shards_with_ray if name == "ray" and ray_is_installed() else predict_shards_locally


def _print_estimate(job: BulkJob, plan: BulkPlan, todo: list[int], workers: int, threads: int | None) -> None:
    """Measure the speed on a few rows and print how long the job will take; a broken model fails here, early."""
    predictor = load_predictor(job, threads)
    rows = read_staged_rows(job, todo[0])[:TRIAL_ROWS]
    list(predict_rows(rows[:8], predictor, job.domain, job.task))  # warm up
    start = time.perf_counter()
    list(predict_rows(rows, predictor, job.domain, job.task))
    speed, left = len(rows) / (time.perf_counter() - start), count_rows(job, plan, todo)
    per_worker = "" if workers == 1 else f" per worker, {workers} workers"
    duration = format_duration(left / speed / workers)
    info(f"{left:,} of {plan.rows:,} rows to predict at {speed:,.0f} rows/s{per_worker}: about {duration}")


def predict_shards_locally(
    job: BulkJob, todo: Sequence[int], workers: int, threads: int | None
) -> Iterator[ShardCount]:
    """Predict shards one by one in this process; yields what was counted for each."""
    predictor = load_predictor(job, threads)
    for shard in todo:
        yield predict_shard(job, predictor, shard)


def bulk_summary(report: BulkReport) -> str:
    """One line about a finished job, from the result of `run_bulk`."""
    speed = report.answered / max(report.seconds, 1e-9)
    computed = ""
    if report.experts_skipped:
        computed = f"; routing {report.routing}: {report.experts_skipped:.1%} of the experts per text were not computed"
    return (
        f"{report.answered:,} rows predicted in {format_duration(report.seconds)} ({speed:,.0f}/s), "
        f"{report.rows:,} rows in {report.parts} shards in {report.folder}{computed}"
    )
