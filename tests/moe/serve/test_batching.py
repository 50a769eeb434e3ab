"""Claims about the queue: what comes together is computed together, no more than may wait is taken, in order."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from moe.serve.batching import Batcher
from moe.serve.errors import RequestError


class Counting:
    """Answers each with its double, once it is let; remembers what came together."""

    def __init__(self, budget: int = 4) -> None:
        self.budget = budget
        self.batches: list[list[Any]] = []
        self.free = threading.Event()
        self.free.set()

    def weigh(self, asked: Any) -> int:
        return 1

    def answer(self, asked: Sequence[Any]) -> list[Any]:
        self.free.wait(10)
        self.batches.append(list(asked))
        return [ValueError("no") if one < 0 else 2 * one for one in asked]


def run(work: Callable[[Batcher], Awaitable[None]], engine: Counting, wait: float = 0.05, most: int = 100) -> None:
    async def whole() -> None:
        batcher = Batcher(engine, wait, most)
        batcher.start()
        try:
            await work(batcher)
        finally:
            engine.free.set()
            await batcher.close()

    asyncio.run(whole())


async def busy(batcher: Batcher) -> None:
    """Until the model has begun."""
    while not batcher.computing:
        await asyncio.sleep(0.001)


def test_what_comes_close_together_is_computed_together_and_each_gets_its_own() -> None:
    engine = Counting()

    async def work(batcher: Batcher) -> None:
        assert await asyncio.gather(*[batcher.put(i, 1) for i in range(6)]) == [0, 2, 4, 6, 8, 10]
        assert batcher.idle

    run(work, engine)
    assert engine.batches == [[0, 1, 2, 3], [4, 5]]


def test_a_full_batch_waits_for_nobody() -> None:
    async def work(batcher: Batcher) -> None:
        start = time.monotonic()
        await asyncio.gather(*[batcher.put(i, 1) for i in range(4)])
        assert time.monotonic() - start < 100

    run(work, Counting(), wait=1000)


def test_what_comes_while_the_model_computes_is_the_next_batch() -> None:
    engine = Counting()
    engine.free.clear()

    async def work(batcher: Batcher) -> None:
        first = batcher.put(0, 1)
        await busy(batcher)
        others = [batcher.put(i, 1) for i in (1, 2, 3)]
        engine.free.set()
        await asyncio.gather(first, *others)

    run(work, engine, wait=0)
    assert engine.batches == [[0], [1, 2, 3]]


def test_more_than_may_wait_is_told_to_come_back_and_one_large_request_is_not_locked_out_for_ever() -> None:
    engine = Counting()
    engine.free.clear()

    async def work(batcher: Batcher) -> None:
        first = batcher.put(0, 5)
        await busy(batcher)
        second = batcher.put(1, 2)
        with pytest.raises(RequestError) as no:
            batcher.put(2, 2)
        assert no.value.status == 503
        assert int(no.value.headers["Retry-After"]) >= 1
        third = batcher.put(3, 1)
        engine.free.set()
        assert await asyncio.gather(first, second, third) == [0, 2, 6]

    run(work, engine, most=3)


def test_what_nobody_waits_for_any_more_is_not_computed() -> None:
    engine = Counting()
    engine.free.clear()

    async def work(batcher: Batcher) -> None:
        first = batcher.put(0, 1)
        await busy(batcher)
        second, third = batcher.put(1, 1), batcher.put(2, 1)
        second.cancel()
        engine.free.set()
        await asyncio.gather(first, third)
        assert batcher.waiting == 0

    run(work, engine)
    assert engine.batches == [[0], [2]]


def test_what_fails_fails_alone_and_the_next_is_answered() -> None:
    async def work(batcher: Batcher) -> None:
        bad, good = batcher.put(-1, 1), batcher.put(1, 1)
        with pytest.raises(ValueError, match="no"):
            await bad
        assert await good == 2
        batcher.engine.answer = None  # type: ignore[assignment,method-assign]
        with pytest.raises(TypeError):
            await batcher.put(1, 1)
        assert batcher.alive

    run(work, Counting())


def test_another_engine_answers_from_the_next_batch_on() -> None:
    old, new = Counting(), Counting()
    old.free.clear()

    async def work(batcher: Batcher) -> None:
        first = batcher.put(0, 1)
        await busy(batcher)
        second = batcher.put(1, 1)
        batcher.engine = new
        old.free.set()
        await asyncio.gather(first, second)

    run(work, old)
    assert (old.batches, new.batches) == ([[0]], [[1]])
