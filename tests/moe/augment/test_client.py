"""Concurrent client: requests in flight are bounded, single failures are tolerated, a dead server is not."""

from collections.abc import Generator, Iterator, Sequence
from threading import Barrier, Lock

import pytest

from experts.errors import Fault
from moe.augment.backends import Completion
from moe.augment.client import complete_all
from moe.augment.prompts import Message


class Echo:
    """Responds with the prompt, fails on some prompts, and counts concurrent requests."""

    def __init__(self, failing: Sequence[str] = (), barrier: int | None = None) -> None:
        self.failing, self.in_flight, self.peak, self.requests = set(failing), 0, 0, 0
        self.barrier = Barrier(barrier) if barrier else None
        self._lock = Lock()

    def complete(self, messages: Sequence[Message]) -> Completion:
        with self._lock:
            self.in_flight, self.requests = self.in_flight + 1, self.requests + 1
            self.peak = max(self.peak, self.in_flight)
        if self.barrier:
            self.barrier.wait(timeout=30)
        with self._lock:
            self.in_flight -= 1
        text = messages[0]["content"]
        return Completion(failure="broken") if text in self.failing else Completion(text)


def prompts(count: int) -> list[tuple[str, list[Message]]]:
    return [(f"k{i}", [{"content": str(i)}]) for i in range(count)]


def test_complete_all_yields_every_response_under_its_key_at_full_concurrency() -> None:
    model = Echo(barrier=3)
    responses = dict(complete_all(model, prompts(12), 3))
    assert {key: response.text for key, response in responses.items()} == {f"k{i}": str(i) for i in range(12)}
    assert model.peak == 3


def test_complete_all_reads_prompts_lazily() -> None:
    read: list[int] = []

    def endless() -> Iterator[tuple[str, list[Message]]]:
        for i in range(1000):
            read.append(i)
            yield f"k{i}", [{"content": str(i)}]

    responses = complete_all(Echo(), endless(), 2)
    next(responses)
    assert isinstance(responses, Generator)
    responses.close()
    assert len(read) < 10


def test_complete_all_tolerates_failures_between_responses() -> None:
    failing = [str(i) for i in range(100) if i % 4]
    responses = dict(complete_all(Echo(failing), prompts(100), 1))
    assert sum(response.failure is not None for response in responses.values()) == 75


def test_complete_all_stops_soon_after_many_failures_in_a_row() -> None:
    model = Echo([str(i) for i in range(5, 100)])
    with pytest.raises(Fault, match="8 failed requests in a row, the last one: broken"):
        list(complete_all(model, prompts(100), 1))
    assert model.requests < 20


def test_complete_all_raises_if_all_of_a_few_requests_fail() -> None:
    with pytest.raises(Fault, match="2 failed requests in a row"):
        list(complete_all(Echo(["0", "1"]), prompts(2), 2))


def test_complete_all_without_prompts_yields_nothing() -> None:
    assert list(complete_all(Echo(), [], 4)) == []
