"""Request queue with dynamic batching: requests that arrive close together are computed together, by one thread.

Engines (`moe.serve.engine_classify`, `moe.serve.engine_explain`, `moe.serve.engine_generate`) do the computation; the
event loop only waits.
"""

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from experts.errors import Fault
from moe.serve.errors import RequestError


class Engine(Protocol):
    """Computes batches of requests. `run_batch` runs in the model's thread."""

    @property
    def token_budget(self) -> int:
        """Approximate number of tokens in a batch."""

    def estimate_tokens(self, request: Any) -> int:
        """Return the approximate number of tokens of a request."""

    def run_batch(self, requests: Sequence[Any]) -> list[Any]:
        """Return a result or an exception for each request, in order."""


@dataclass(eq=False)
class _QueuedRequest:
    request: Any
    texts: int
    tokens: int
    arrived: float  # time.monotonic()
    future: asyncio.Future[Any]


class Batcher:
    """Queue, batch formation and the model's thread.

    Args:
        engine: may be replaced at any time; takes effect with the next batch.
        max_wait: seconds for which the first request of a batch waits for others while the model is idle.
        max_queued_texts: texts that may wait; further requests are rejected.
        on_batch: called with the number of texts and the seconds of every batch.
        thread: computes the batches; by default one of its own.
    """

    def __init__(
        self,
        engine: Engine,
        max_wait: float,
        max_queued_texts: int,
        on_batch: Callable[[int, float], None] = lambda texts, seconds: None,
        thread: ThreadPoolExecutor | None = None,
    ) -> None:
        self.engine, self.max_wait, self.max_queued_texts, self._on_batch = engine, max_wait, max_queued_texts, on_batch
        self._queue: deque[_QueuedRequest] = deque()
        self.queued_texts, self.in_flight, self._queued_tokens, self._seconds_per_text = 0, 0, 0, 0.0
        self._not_empty, self._batch_full = asyncio.Event(), asyncio.Event()
        self._thread, self._owns_thread = thread or ThreadPoolExecutor(1, "model"), thread is None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start processing the queue."""
        self._task = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether the queue is being processed."""
        return self._task is not None and not self._task.done()

    @property
    def idle(self) -> bool:
        """Whether the queue is empty and no batch is being computed."""
        return not self._queue and not self.in_flight

    async def close(self) -> None:
        """Stop immediately; queued requests are never computed."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        if self._owns_thread:
            self._thread.shutdown(wait=True)

    def submit(self, request: Any, texts: int) -> asyncio.Future[Any]:
        """Queue a request and return the future of its result; cancelling the future withdraws a queued request.

        Raises:
            RequestError: 503 if too many texts are queued.
        """
        if self.queued_texts and self.queued_texts + texts > self.max_queued_texts:
            queue_state = f"{self.queued_texts} queued texts and {texts} more in this request"
            retry_after = {"Retry-After": str(self.estimate_wait())}
            fault = Fault(f"at most {self.max_queued_texts} texts in the queue", queue_state, "retry later")
            raise RequestError(503, fault, retry_after)
        queued = _QueuedRequest(
            request=request,
            texts=texts,
            tokens=self.engine.estimate_tokens(request),
            arrived=time.monotonic(),
            future=asyncio.get_running_loop().create_future(),
        )
        queued.future.add_done_callback(lambda _: self._withdraw(queued))
        self._queue.append(queued)
        self.queued_texts, self._queued_tokens = self.queued_texts + texts, self._queued_tokens + queued.tokens
        self._not_empty.set()
        if self._queued_tokens >= self.engine.token_budget:
            self._batch_full.set()
        return queued.future

    def estimate_wait(self) -> int:
        """Return the estimated seconds until the queue is empty, from recent throughput; between 1 and 60."""
        return min(60, max(1, math.ceil(self.queued_texts * self._seconds_per_text)))

    def _withdraw(self, queued: _QueuedRequest) -> None:
        """Take a request out of the queue whose client no longer waits."""
        if queued.future.cancelled() and queued in self._queue:
            self._queue.remove(queued)
            self._leave(queued)
            self._update_events()

    def _leave(self, queued: _QueuedRequest) -> None:
        self.queued_texts -= queued.texts
        self._queued_tokens -= queued.tokens

    def _update_events(self) -> None:
        if not self._queue:
            self._not_empty.clear()
        if self._queued_tokens < self.engine.token_budget:
            self._batch_full.clear()

    async def _run(self) -> None:
        while True:
            await self._not_empty.wait()
            await self._wait_for_batch()
            if batch := self._take_batch():
                await self._compute(batch)

    async def _wait_for_batch(self) -> None:
        """Wait until a batch is full or its first request has waited `max_wait`, computing time included."""
        if not self._queue:  # all withdrawn
            return
        remaining = self._queue[0].arrived + self.max_wait - time.monotonic()
        if remaining > 0 and not self._batch_full.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(remaining):
                    await self._batch_full.wait()

    def _take_batch(self) -> list[_QueuedRequest]:
        """Remove the next batch, at least one request, from the queue."""
        batch: list[_QueuedRequest] = []
        tokens, budget = 0, self.engine.token_budget
        while self._queue and (not batch or tokens + self._queue[0].tokens <= budget):
            queued = self._queue.popleft()
            self._leave(queued)
            if not queued.future.done():
                batch.append(queued)
                tokens += queued.tokens
        self._update_events()
        return batch

    async def _compute(self, batch: list[_QueuedRequest]) -> None:
        self.in_flight, texts, start = len(batch), sum(queued.texts for queued in batch), time.monotonic()
        requests, loop = [queued.request for queued in batch], asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self.engine.run_batch, requests)
        except Exception as error:
            results = [error] * len(batch)
        finally:
            self.in_flight = 0
        seconds = time.monotonic() - start
        pace = seconds / texts
        self._seconds_per_text = pace if not self._seconds_per_text else 0.8 * self._seconds_per_text + 0.2 * pace
        self._on_batch(texts, seconds)
        for queued, result in zip(batch, results, strict=True):
            _resolve(queued.future, result)


def _resolve(future: asyncio.Future[Any], result: Any) -> None:
    if future.done():  # withdrawn while it was being computed
        return
    if isinstance(result, BaseException):
        future.set_exception(result)
    else:
        future.set_result(result)
