"""Long streams: ten times the texts in time and memory; several processes of one thread beside one of several."""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from paired_timing import Ratio, described, mixture

from moe.checkpoints.mixture import write_mixture
from moe.inference.loading import ModelLoader
from moe.inference.multiprocess import available_cores, predict_in_processes
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows
from moe.model.backbone import BackboneSettings


def growth(some: Sequence[str], short: int = 10_000) -> Iterator[Ratio]:
    """Ten times the texts, each stream in a fresh process: time, and the most memory that the process ever held.

    The short stream is timed before and after the long one.
    """
    cut = [text[:24] for text in some]
    before, long, after = (_alone(_answer_stream, cut, count) for count in (short, 10 * short, short))
    (seconds, held), control = ((a + b) / 2 for a, b in zip(before, after, strict=True)), before[0] / after[0]
    said = f"{10 * short:,} texts: {short:,} texts"
    yield Ratio(f"time, {said}", long[0], seconds, control, "≤ 10.3")
    yield Ratio(f"peak memory, {said}, GiB", long[1], held, before[1] / after[1], "≤ 1.1")


def _alone(work: Any, *args: Any) -> Any:
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


def _answer_stream(some: Sequence[str], count: int) -> tuple[float, float]:
    """Seconds of a stream of texts after a first window, and GiB at the process's peak."""
    predictor = Predictor(mixture(2, 8, 3), "{text}", 16)
    _exhaust(predict_rows(_rows(some, predictor.chunk_size), predictor))
    start = time.perf_counter()
    _exhaust(predict_rows(_rows(some, count), predictor))
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _rows(some: Sequence[str], count: int) -> Iterator[dict[str, Any]]:
    return ({"text": some[i % len(some)]} for i in range(count))


def _exhaust(rows: Iterable[Any]) -> None:
    for _ in rows:
        pass


def workers(some: Sequence[str], count: int = 6_000) -> Iterator[Ratio]:
    """As many processes of one thread as there are cores, beside one process of as many threads; models loaded."""
    with tempfile.TemporaryDirectory() as folder:
        model, card = described(5, 16, BackboneSettings(trunk_depth=1))
        write_mixture(Path(folder) / "moe", model, card, "", {})
        opening = ModelLoader(Path(folder) / "moe")
        times = [(_one_process(opening, some, count), _many(opening, some, count)) for _ in range(2)]
    (first, ours), (second, again) = times
    name = f"infer, {cores()} processes of 1 thread: 1 process of {cores()} threads"
    yield Ratio(name, (ours + again) / 2, (first + second) / 2, first / second, "–")


def _many(opening: ModelLoader, some: Sequence[str], count: int) -> float:
    """Seconds a text, after every process has answered its first window."""
    skip = available_cores() * opening.chunk_size
    answers = predict_in_processes(_rows(some, skip + count), opening, None, None, available_cores(), 1)
    for _ in range(skip):
        next(answers)
    start = time.perf_counter()
    _exhaust(answers)
    return (time.perf_counter() - start) / count


def _one_process(opening: ModelLoader, some: Sequence[str], count: int) -> float:
    return _alone(_threads, opening, some, count)


def _threads(opening: ModelLoader, some: Sequence[str], count: int) -> float:
    torch.set_num_threads(available_cores())
    predictor = opening.load()
    _exhaust(predict_rows(_rows(some, predictor.chunk_size), predictor))
    start = time.perf_counter()
    _exhaust(predict_rows(_rows(some, count), predictor))
    return (time.perf_counter() - start) / count
