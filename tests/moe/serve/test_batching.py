"""Tests of the request queue: batches, limits, order and failures."""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from moe.serve.batching import Batcher
from moe.serve.errors import RequestError


class DoublingEngine:
    """Doubles every request, once it may run; records the batches."""

    def __init__(self, token_budget: int = 4) -> None:
        self.token_budget = token_budget
        self.batches: list[list[Any]] = []
        self.may_run = threading.Event()
        self.may_run.set()

    def estimate_tokens(self, request: Any) -> int:
        return 1

    def run_batch(self, requests: Sequence[Any]) -> list[Any]:
        self.may_run.wait(10)
        self.batches.append(list(requests))
        return [ValueError("no") if request < 0 else 2 * request for request in requests]


def run(
    scenario: Callable[[Batcher], Awaitable[None]], engine: DoublingEngine, max_wait: float = 0.05, limit: int = 100
) -> None:
    async def run_scenario() -> None:
        batcher = Batcher(engine, max_wait, limit)
        batcher.start()
        try:
            await scenario(batcher)
        finally:
            engine.may_run.set()
            await batcher.close()

    asyncio.run(run_scenario())


async def wait_until_busy(batcher: Batcher) -> None:
    """Wait until the engine has a batch."""
    while not batcher.in_flight:
        await asyncio.sleep(0.001)


def test_batcher_groups_requests_that_arrive_together() -> None:
    engine = DoublingEngine()

    async def scenario(batcher: Batcher) -> None:
        assert await asyncio.gather(*[batcher.submit(i, 1) for i in range(6)]) == [0, 2, 4, 6, 8, 10]
        assert batcher.idle

    run(scenario, engine)
    assert engine.batches == [[0, 1, 2, 3], [4, 5]]


def test_full_batch_starts_immediately() -> None:
    async def scenario(batcher: Batcher) -> None:
        start = time.monotonic()
        await asyncio.gather(*[batcher.submit(i, 1) for i in range(4)])
        assert time.monotonic() - start < 100

    run(scenario, DoublingEngine(), max_wait=1000)


def test_batcher_groups_requests_that_arrive_during_a_batch() -> None:
    engine = DoublingEngine()
    engine.may_run.clear()

    async def scenario(batcher: Batcher) -> None:
        first = batcher.submit(0, 1)
        await wait_until_busy(batcher)
        others = [batcher.submit(i, 1) for i in (1, 2, 3)]
        engine.may_run.set()
        await asyncio.gather(first, *others)

    run(scenario, engine, max_wait=0)
    assert engine.batches == [[0], [1, 2, 3]]


def test_full_queue_rejects_requests_but_takes_a_large_one_when_empty() -> None:
    engine = DoublingEngine()
    engine.may_run.clear()

    async def scenario(batcher: Batcher) -> None:
        first = batcher.submit(0, 5)
        await wait_until_busy(batcher)
        second = batcher.submit(1, 2)
        with pytest.raises(RequestError) as rejected:
            batcher.submit(2, 2)
        assert rejected.value.status == 503
        assert int(rejected.value.headers["Retry-After"]) >= 1
        third = batcher.submit(3, 1)
        engine.may_run.set()
        assert await asyncio.gather(first, second, third) == [0, 2, 6]

    run(scenario, engine, limit=3)


def test_cancelled_request_is_not_computed() -> None:
    engine = DoublingEngine()
    engine.may_run.clear()

    async def scenario(batcher: Batcher) -> None:
        first = batcher.submit(0, 1)
        await wait_until_busy(batcher)
        second, third = batcher.submit(1, 1), batcher.submit(2, 1)
        second.cancel()
        engine.may_run.set()
        await asyncio.gather(first, third)
        assert batcher.queued_texts == 0

    run(scenario, engine)
    assert engine.batches == [[0], [2]]


def test_failed_request_does_not_affect_others_or_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(batcher: Batcher) -> None:
        bad, good = batcher.submit(-1, 1), batcher.submit(1, 1)
        with pytest.raises(ValueError, match="no"):
            await bad
        assert await good == 2
        monkeypatch.setattr(batcher.engine, "run_batch", None)
        with pytest.raises(TypeError):
            await batcher.submit(1, 1)
        assert batcher.alive

    run(scenario, DoublingEngine())


def test_new_engine_takes_over_with_the_next_batch() -> None:
    old, new = DoublingEngine(), DoublingEngine()
    old.may_run.clear()

    async def scenario(batcher: Batcher) -> None:
        first = batcher.submit(0, 1)
        await wait_until_busy(batcher)
        second = batcher.submit(1, 1)
        batcher.engine = new
        old.may_run.set()
        await asyncio.gather(first, second)

    run(scenario, old)
    assert (old.batches, new.batches) == ([[0]], [[1]])
