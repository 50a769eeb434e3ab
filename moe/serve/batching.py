"""The queue before the model: what comes close together is computed together, by one thread, in the order it came.

What is computed is an engine's (`moe.serve.engine_classify`, `moe.serve.engine_generate`); the event loop only waits.
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
    """What answers. Its `answer` runs in the model's thread and gives a result, or an exception, for each one asked."""

    @property
    def budget(self) -> int:
        """Tokens, about, that are answered together."""

    def weigh(self, asked: Any) -> int:
        """About how many tokens one that is asked has."""

    def answer(self, asked: Sequence[Any]) -> list[Any]:
        """The results, in order."""


@dataclass
class _Job:
    asked: Any
    texts: int
    tokens: int
    came: float
    done: asyncio.Future[Any]


class Batcher:
    """Queue, gathering and the model's thread.

    Args:
        engine: may be set anew at any time: the next batch is the new one's.
        wait: seconds that the first of a batch waits for others, while the model has nothing else to do.
        most: texts that may wait.
        computed: told the texts and seconds of every batch.
        start: runs first in the model's thread.
    """

    def __init__(
        self,
        engine: Engine,
        wait: float,
        most: int,
        computed: Callable[[int, float], None] = lambda texts, seconds: None,
        start: Callable[[], None] = lambda: None,
    ) -> None:
        self.engine, self.wait, self.most, self._computed = engine, wait, most, computed
        self._queue: deque[_Job] = deque()
        self.waiting, self.computing, self._tokens, self._pace = 0, 0, 0, 0.0
        self._some, self._enough = asyncio.Event(), asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "model", start)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to compute."""
        self._task = asyncio.create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether it computes, or would."""
        return self._task is not None and not self._task.done()

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing is computed."""
        return not self._queue and not self.computing

    async def close(self) -> None:
        """Stop at once; what waits is never computed."""
        if self._task:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=True)

    def put(self, asked: Any, texts: int) -> asyncio.Future[Any]:
        """Queue what is asked; the future has its result, and to cancel it takes it back while it waits.

        Raises:
            Refused: when too many texts wait.
        """
        if self.waiting and self.waiting + texts > self.most:
            found = f"{self.waiting} that wait, and {texts} more"
            later = {"Retry-After": str(self.seconds_to_wait())}
            raise RequestError(503, Fault(f"room for texts in a queue of {self.most}", found, "ask again later"), later)
        job = _Job(asked, texts, self.engine.weigh(asked), time.monotonic(), asyncio.get_running_loop().create_future())
        self._queue.append(job)
        self.waiting, self._tokens = self.waiting + texts, self._tokens + job.tokens
        self._some.set()
        if self._tokens >= self.engine.budget:
            self._enough.set()
        return job.done

    def seconds_to_wait(self) -> int:
        """About how long what waits will take, at the pace of late; 1 to 60."""
        return min(60, max(1, math.ceil(self.waiting * self._pace)))

    async def _run(self) -> None:
        while True:
            await self._some.wait()
            await self._gather()
            if jobs := self._take():
                await self._compute(jobs)

    async def _gather(self) -> None:
        """Wait until a batch is full, or its first has waited long enough; a model that was busy leaves no wait."""
        left = self._queue[0].came + self.wait - time.monotonic()
        if left > 0 and not self._enough.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._enough.wait()

    def _take(self) -> list[_Job]:
        """The next batch, one job at least; those that nobody waits for any more fall out."""
        jobs: list[_Job] = []
        tokens, budget = 0, self.engine.budget
        while self._queue and (not jobs or tokens + self._queue[0].tokens <= budget):
            job = self._queue.popleft()
            self.waiting, self._tokens = self.waiting - job.texts, self._tokens - job.tokens
            if not job.done.done():
                jobs.append(job)
                tokens += job.tokens
        if not self._queue:
            self._some.clear()
        if self._tokens < budget:
            self._enough.clear()
        return jobs

    async def _compute(self, jobs: list[_Job]) -> None:
        self.computing, texts, start = len(jobs), sum(job.texts for job in jobs), time.monotonic()
        asked, loop = [job.asked for job in jobs], asyncio.get_running_loop()
        try:
            results = await loop.run_in_executor(self._thread, self.engine.answer, asked)
        except Exception as error:
            results = [error] * len(jobs)
        finally:
            self.computing = 0
        seconds = time.monotonic() - start
        self._pace = seconds / texts if not self._pace else 0.8 * self._pace + 0.2 * seconds / texts
        self._computed(texts, seconds)
        for job, result in zip(jobs, results, strict=True):
            _finish(job.done, result)


def _finish(done: asyncio.Future[Any], result: Any) -> None:
    if done.done():
        return
    if isinstance(result, BaseException):
        done.set_exception(result)
    else:
        done.set_result(result)
