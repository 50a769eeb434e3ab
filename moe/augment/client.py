"""Sends many prompts to one model, a bounded number at a time, and yields responses as they arrive."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import Protocol

from experts.errors import Fault
from moe.augment.backends import Completion
from moe.augment.prompts import Message

KeyedPrompt = tuple[str, Sequence[Message]]
_MAX_FAILURES = 8
_REMEDY = "check the server, then run the same command again: responses received so far are saved"


class ChatModel(Protocol):
    """Anything that completes chats; see `EndpointClient` and `LocalModel`."""

    def complete(self, messages: Sequence[Message]) -> Completion:
        """Return the response to one prompt."""


def complete_all(
    model: ChatModel,
    prompts: Iterable[KeyedPrompt],
    concurrency: int,
    *,
    remedy: str = _REMEDY,
    allow_refused: bool = False,
) -> Iterator[tuple[str, Completion]]:
    """Yield each prompt's key and response, in the order in which responses arrive.

    Args:
        model: thread-safe if `concurrency` is above 1.
        prompts: key and messages of each; read lazily.
        concurrency: requests in flight at once.
        remedy: what to do if many requests fail, for the message.
        allow_refused: let a few prompts that the server refuses pass, even if they are all prompts.

    Raises:
        Fault: if a response shows that no other request can succeed, or if many requests fail in a row.
    """
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="completion")
    limit = max(_MAX_FAILURES, 2 * concurrency)
    try:
        yield from _stop_on_failures(_responses(pool, model, iter(prompts), concurrency), limit, remedy, allow_refused)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _responses(
    pool: ThreadPoolExecutor, model: ChatModel, prompts: Iterator[KeyedPrompt], concurrency: int
) -> Iterator[tuple[str, Completion]]:
    def send(count: int) -> dict[Future[Completion], str]:
        return {pool.submit(model.complete, messages): key for key, messages in islice(prompts, count)}

    in_flight = send(concurrency)
    while in_flight:
        done, _ = wait(in_flight, return_when=FIRST_COMPLETED)
        finished = [(in_flight.pop(future), future.result()) for future in done]
        in_flight |= send(len(finished))
        yield from finished


def _stop_on_failures(
    responses: Iterator[tuple[str, Completion]], limit: int, remedy: str, allow_refused: bool
) -> Iterator[tuple[str, Completion]]:
    """Pass responses on; raise after `limit` failures in a row, or if there were only failures."""
    failures, any_success, last = 0, False, None
    for key, response in responses:
        failures, last = (failures + 1, response.failure) if response.failure else (0, last)
        any_success |= not response.failure or (allow_refused and response.refused)
        if failures >= limit:
            break
        yield key, response
    if failures >= limit or (failures and not any_success):
        raise Fault(
            "responses from the language model",
            f"{failures} failed requests in a row, the last one: {last}",
            remedy,
        )
