"""Claims about many questions: few under way at once, failures now and then are borne, a dead server is not."""

from collections.abc import Sequence
from threading import Barrier, Lock

import pytest

from experts.errors import Fault
from moe.augment.backends import Completion
from moe.augment.client import complete_all
from moe.augment.prompts import Message


class Echo:
    """Answers with the question; fails where told; counts how many ask at once."""

    def __init__(self, failing: Sequence[str] = (), together: int | None = None) -> None:
        self.failing, self.at_once, self.most, self.asked = set(failing), 0, 0, 0
        self.barrier = Barrier(together) if together else None
        self._lock = Lock()

    def complete(self, messages: Sequence[Message]) -> Completion:
        with self._lock:
            self.at_once, self.asked = self.at_once + 1, self.asked + 1
            self.most = max(self.most, self.at_once)
        if self.barrier:
            self.barrier.wait(timeout=30)
        with self._lock:
            self.at_once -= 1
        text = messages[0]["content"]
        return Completion(failure="broken") if text in self.failing else Completion(text)


def questions(count: int) -> list[tuple[str, list[Message]]]:
    return [(f"k{i}", [{"content": str(i)}]) for i in range(count)]


def test_every_question_is_answered_under_its_key_and_so_many_at_once() -> None:
    model = Echo(together=3)
    found = dict(complete_all(model, questions(12), 3))
    assert {key: one.text for key, one in found.items()} == {f"k{i}": str(i) for i in range(12)}
    assert model.most == 3


def test_questions_are_read_only_as_they_are_sent() -> None:
    read: list[int] = []

    def endless():  # type: ignore[no-untyped-def]
        for i in range(1000):
            read.append(i)
            yield f"k{i}", [{"content": str(i)}]

    answers = complete_all(Echo(), endless(), 2)
    next(answers)
    answers.close()  # type: ignore[attr-defined]
    assert len(read) < 10


def test_failures_between_answers_are_borne() -> None:
    failing = [str(i) for i in range(100) if i % 4]
    found = dict(complete_all(Echo(failing), questions(100), 1))
    assert sum(one.failure is not None for one in found.values()) == 75


def test_many_failures_in_a_row_are_a_fault_soon() -> None:
    model = Echo([str(i) for i in range(5, 100)])
    with pytest.raises(Fault, match="8 failures in a row, the last: broken"):
        list(complete_all(model, questions(100), 1))
    assert model.asked < 20


def test_when_all_of_a_few_fail_it_is_a_fault_too() -> None:
    with pytest.raises(Fault, match="2 failures in a row"):
        list(complete_all(Echo(["0", "1"]), questions(2), 2))


def test_nothing_to_ask_is_nothing_to_answer() -> None:
    assert list(complete_all(Echo(), [], 4)) == []
