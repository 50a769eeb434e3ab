"""Throughput on long streams: growth of time and memory, and several single-threaded processes against one process."""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from paired_timing import Ratio, build_untrained, build_untrained_with_card

from moe.checkpoints.mixture import write_mixture
from moe.inference.load import LoadOptions, load
from moe.inference.multiprocess import available_cores, predict_in_processes
from moe.inference.stream import predict_rows
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings
from moe.runs.model_ref import ModelRef, resolve

P = ParamSpec("P")
T = TypeVar("T")


def measure_growth(texts: Sequence[str], short: int = 10_000) -> Iterator[Ratio]:
    """Compare time and peak memory of a stream with those of one a tenth as long, each in a fresh process.

    The short stream is timed before and after the long one.
    """
    cut = [text[:24] for text in texts]
    before, long, after = (_run_in_process(_time_stream, cut, count) for count in (short, 10 * short, short))
    seconds, memory = ((a + b) / 2 for a, b in zip(before, after, strict=True))
    name = f"{10 * short:,} texts: {short:,} texts"
    yield Ratio(f"time, {name}", long[0], seconds, before[0] / after[0], "≤ 10.3")
    yield Ratio(f"peak memory, {name}, GiB", long[1], memory, before[1] / after[1], "≤ 1.1")


def _run_in_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _time_stream(texts: Sequence[str], count: int) -> tuple[float, float]:
    """Return the seconds of a stream of texts after a first chunk, and the process's peak memory in GiB."""
    predictor = TorchPredictor(build_untrained(2, 8, 3), "{text}", 16)
    _exhaust(predict_rows(_rows(texts, predictor.chunk_size), predictor))
    start = time.perf_counter()
    _exhaust(predict_rows(_rows(texts, count), predictor))
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _rows(texts: Sequence[str], count: int) -> Iterator[dict[str, str]]:
    return ({"text": texts[i % len(texts)]} for i in range(count))


def _exhaust(rows: Iterable[object]) -> None:
    for _ in rows:
        pass


def measure_workers(texts: Sequence[str], count: int = 6_000) -> Iterator[Ratio]:
    """Compare a single-threaded process per core with one process of as many threads, without loading the model."""
    with tempfile.TemporaryDirectory() as folder:
        model, card = build_untrained_with_card(5, 16, BackboneSettings(trunk_depth=1))
        write_mixture(Path(folder) / "moe", model, card, "", {})
        ref = resolve(Path(folder) / "moe")
        times = [
            (_run_in_process(_time_single_process, ref, texts, count), _time_processes(ref, texts, count))
            for _ in range(2)
        ]
    (single_before, ours_before), (single_after, ours_after) = times
    name = f"infer, {available_cores()} processes of 1 thread: 1 process of {available_cores()} threads"
    ours, single = (ours_before + ours_after) / 2, (single_before + single_after) / 2
    yield Ratio(name, ours, single, single_before / single_after, "–")


def _time_processes(ref: ModelRef, texts: Sequence[str], count: int) -> float:
    """Return the seconds per text, after every process has predicted its first chunk."""
    options = LoadOptions(threads=1)
    skip = available_cores() * options.chunk_size
    predictions = predict_in_processes(
        _rows(texts, skip + count), ref, options, domain=None, task=None, workers=available_cores()
    )
    for _ in range(skip):
        next(predictions)
    start = time.perf_counter()
    _exhaust(predictions)
    return (time.perf_counter() - start) / count


def _time_single_process(ref: ModelRef, texts: Sequence[str], count: int) -> float:
    torch.set_num_threads(available_cores())
    predictor = load(ref)
    _exhaust(predict_rows(_rows(texts, predictor.chunk_size), predictor))
    start = time.perf_counter()
    _exhaust(predict_rows(_rows(texts, count), predictor))
    return (time.perf_counter() - start) / count
