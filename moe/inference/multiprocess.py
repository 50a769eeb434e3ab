"""Answering in several processes: each opens the model itself and answers windows of a stream; the order is kept.

What a window's answers are is `moe.inference.stream`'s. Threads are shared out so that the cores are used once, not
twice.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from itertools import islice
from typing import Any

import torch

from experts.errors import Fault
from moe.inference.loading import ModelLoader
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_rows

Rows = list[dict[str, Any]]
CHUNKS_PER_WORKER = 2  # windows a process has waiting: one is computed, one is at hand


def available_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads_per_worker(workers: int, threads: int | None) -> int | None:
    """Threads of each of several processes: what is asked, else the cores shared out; None leaves one process to torch.

    Raises:
        Fault: when they would need more cores than there are, or share one GPU.
    """
    if workers > 1 and torch.cuda.is_available():
        raise Fault("--workers 1 on a GPU", str(workers), "leave it out; --batch-tokens fills a GPU")
    if workers * (threads or 1) > available_cores():
        found = f"{workers} workers of {threads or 1} threads"
        raise Fault(f"at most the {cores()} cores of this machine", found, "lower --workers or --threads")
    return threads if threads or workers == 1 else available_cores() // workers


def predict_in_processes(
    rows: Iterable[dict[str, Any]],
    opening: ModelLoader,
    domain: str | None,
    task: str | None,
    workers: int,
    threads: int | None = None,
) -> Iterator[dict[str, Any]]:
    """As `predict_rows`, in several processes; at most `CHUNKS_PER_WORKER` windows a process are read ahead.

    Args:
        workers: how many processes, each with a model of its own.
        threads: of each process; None shares the cores out.

    Raises:
        Fault: what a process found wrong, or that one was killed.
    """
    each = threads_per_worker(workers, threads)
    stream = iter(rows)
    waiting: deque[Future[Rows]] = deque()
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (each,))
    try:
        while True:
            while len(waiting) < CHUNKS_PER_WORKER * workers and (window := list(islice(stream, opening.chunk_size))):
                waiting.append(pool.submit(_answer, opening, domain, task, window))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise Fault("workers that live", "one that was killed", "lower --workers; it may be the memory") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start(threads: int | None) -> None:
    """Before a process's first window: Ctrl-C is the parent's, and so are all cores but ours."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if threads:
        torch.set_num_threads(threads)


@lru_cache(maxsize=1)
def _predictor(opening: ModelLoader) -> Predictor:
    return opening.load()


def _answer(opening: ModelLoader, domain: str | None, task: str | None, window: Rows) -> Rows:
    predictor = _predictor(opening)
    predictor.check(task, domain)
    return list(predict_rows(window, predictor, domain, task))
