"""Prediction in several processes, each with its own copy of the model; the order of the rows is preserved."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import lru_cache
from itertools import islice

from experts.errors import Fault
from moe.inference.load import LoadOptions, has_gpu, load
from moe.inference.predictor import Predictor
from moe.inference.rows import Row
from moe.inference.stream import predict_rows
from moe.inference.windows import RoutingCount
from moe.runs.model_ref import ModelRef

CHUNKS_PER_WORKER = 2  # one that is being predicted and one that is waiting


def available_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int, threads: int | None) -> int | None:
    """Number of threads of each worker: `threads` if given, else an equal share of the cores.

    Returns:
        the number; None for a single worker without `threads`, which leaves the choice to the runtime.

    Raises:
        Fault: if the workers would need more cores than available, or would share a GPU.
    """
    if workers > 1 and has_gpu():
        raise Fault("--workers 1 on a GPU", str(workers), "remove --workers and raise --batch-tokens to fill the GPU")
    if workers * (threads or 1) > available_cores():
        requested = f"{workers} workers of {threads or 1} threads"
        raise Fault(f"at most the {available_cores()} cores of this machine", requested, "lower --workers or --threads")
    return threads if threads or workers == 1 else available_cores() // workers


def predict_in_processes(
    rows: Iterable[Mapping[str, object]],
    ref: ModelRef,
    options: LoadOptions,
    domain: str | None,
    task: str | None,
    workers: int,
    target: bool | None = False,
    on_routed: Callable[[RoutingCount], object] = lambda count: None,
) -> Iterator[Row]:
    """Predict a stream of rows as `predict_rows` does, in several processes.

    At most `CHUNKS_PER_WORKER` chunks per process are read ahead.

    Args:
        workers: number of processes.
        options: how each process loads the model; without `threads`, the cores are divided among them.
        target: whether the texts have a target, see `Predictor.check`.
        on_routed: called with the experts that were computed for each chunk.

    Raises:
        Fault: one that a worker raised, or if a worker was killed.
    """
    options = replace(options, threads=threads_per_worker(workers, options.threads))
    stream = iter(rows)
    pending: deque[Future[tuple[list[Row], RoutingCount]]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _init_worker)
    try:
        while True:
            while len(pending) < CHUNKS_PER_WORKER * workers and (chunk := list(islice(stream, options.chunk_size))):
                pending.append(pool.submit(_predict_chunk, ref, options, domain, task, target, chunk))
            if not pending:
                return
            predicted, count = pending.popleft().result()
            on_routed(count)
            yield from predicted
    except BrokenProcessPool as error:
        raise Fault(
            "worker processes that keep running",
            "one that was killed",
            "lower --workers if memory ran out, and run it again",
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _init_worker() -> None:
    """Leave Ctrl-C to the parent process, and keep tokenizers from starting threads of their own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


@lru_cache(maxsize=1)
def _load_once(ref: ModelRef, options: LoadOptions) -> Predictor:
    return load(ref, options)


def _predict_chunk(
    ref: ModelRef,
    options: LoadOptions,
    domain: str | None,
    task: str | None,
    target: bool | None,
    chunk: list[Mapping[str, object]],
) -> tuple[list[Row], RoutingCount]:
    predictor = _load_once(ref, options)
    predictor.check(task, domain, target)
    before = predictor.routing_count
    rows = list(predict_rows(chunk, predictor, domain, task))
    return rows, predictor.routing_count - before
