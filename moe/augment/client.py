"""Many questions to one endpoint, a bounded number under way at once, answers handed on as they come.

What is asked and where answers are kept is told by whoever calls; one question is `endpoint`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol

from experts.errors import Fault
from moe.augment.backends import Completion
from moe.augment.prompts import Message

KeyedPrompt = tuple[str, Sequence[Message]]
_MOST_FAILURES = 8


class ChatModel(Protocol):
    """Who answers; see `Endpoint.ask`."""

    def complete(self, messages: Sequence[Message]) -> Completion:
        """One answer."""


def complete_all(
    endpoint: ChatModel, questions: Iterable[KeyedPrompt], at_once: int
) -> Iterator[tuple[str, Completion]]:
    """Each question's key and answer, in the order in which they come.

    Args:
        endpoint: who answers.
        questions: key and messages; read as they are sent.
        at_once: requests under way.

    Raises:
        Fault: at the first question that shows that no other can fare better, and when many fail one after the other.
    """
    pool = ThreadPoolExecutor(at_once, thread_name_prefix="asking")
    try:
        yield from _patiently(_answers(pool, endpoint, iter(questions), at_once), max(_MOST_FAILURES, 2 * at_once))
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _answers(
    pool: ThreadPoolExecutor, endpoint: ChatModel, questions: Iterator[KeyedPrompt], at_once: int
) -> Iterator[tuple[str, Completion]]:
    def send(count: int) -> dict[Future[Completion], str]:
        return {pool.submit(endpoint.complete, messages): key for key, messages in islice(questions, count)}

    under_way = send(at_once)
    while under_way:
        done, _ = wait(under_way, return_when=FIRST_COMPLETED)
        finished = [(under_way.pop(one), one.result()) for one in done]
        under_way |= send(len(finished))
        yield from finished


def _patiently(answers: Iterator[tuple[str, Completion]], most: int) -> Iterator[tuple[str, Completion]]:
    """The same; a fault once this many fail in a row, or when all of fewer do."""
    failed, any_came, last = 0, False, None
    for key, answer in answers:
        failed, last = (failed + 1, answer.failure) if answer.failure else (0, last)
        any_came |= not answer.failure
        if failed >= most:
            break
        yield key, answer
    if failed >= most or (failed and not any_came):
        raise Fault(
            "answers from the endpoint",
            f"{failed} failures in a row, the last: {last}",
            "look after the server, then type the same again: what was answered is kept",
        )
