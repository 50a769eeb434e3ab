"""The engine of language models: one chat at a time, as `moe generate` answers it, token by token where that is wanted.

How answers travel is `moe.serve.routes_chat`'s.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experts.errors import Fault
from moe.inference.generator import Generator, Sampling
from moe.inference.predictor import Routing
from moe.model.mixture import Mixture
from moe.serve.errors import RequestError, check_known_name


@dataclass(frozen=True)
class ChatRequest:
    """What one request asks.

    Args:
        turns: of the chat, each with `role` and `content`.
        streamer: is shown each token as it comes; transformers'.
        stop: set when nobody waits any more.
    """

    turns: tuple[Mapping[str, str], ...]
    sampling: Sampling
    domain: str | None = None
    routing: Routing = "soft"
    streamer: Any = None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class ChatResult:
    """An answer, what it took, and who gave it."""

    model: str
    text: str
    experts: dict[str, float] | None
    prompt_tokens: int
    tokens: int
    ended: bool


class GenerateEngine:
    """Answers chats with one loaded mixture over a causal language model.

    Args:
        model: it.
        template: the one that it was trained with.
        name: the SHA-256 that answers are marked with.

    Raises:
        Fault: when it cannot write.
    """

    budget = 1  # a batch is one chat, since each has its own way of drawing and its own length

    def __init__(self, model: Mixture, template: str, name: str) -> None:
        first = Generator(model, template)
        self.model, self.template, self.name = model, template, name
        self.tokenizer, self.context = first.tokenizer, first.context_length or 0

    def weigh(self, asked: ChatRequest) -> int:
        """Each fills a batch."""
        return self.budget

    def answer(self, asked: Sequence[ChatRequest]) -> list[Any]:
        """What is said to each, or why nothing is."""
        return [self._one(one) for one in asked]

    def _one(self, asked: ChatRequest) -> Any:
        try:
            return self._said(asked)
        except Exception as error:
            if asked.streamer is not None:
                asked.streamer.on_finalized_text("", stream_end=True)
            return RequestError(409, error) if isinstance(error, Fault) else error

    def _said(self, asked: ChatRequest) -> ChatResult:
        check_known_name("domain", asked.domain, [domain.name for domain in self.model.domains])
        generator = Generator(self.model, self.template, asked.sampling, asked.routing == "hard")
        ids = generator.encode(asked.turns)
        (written,) = generator.generate([ids], asked.domain, asked.streamer, asked.stop.is_set)
        return ChatResult(self.name, written.text, written.routing_weights, len(ids), written.new_tokens, written.finished)
