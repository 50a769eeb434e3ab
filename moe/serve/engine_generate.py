"""Engine for language models: answers one chat at a time, as `moe generate` does, optionally token by token."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experts.errors import Fault
from moe.inference.generator import Generator, Sampling
from moe.model.mixture import Mixture
from moe.model.mode import Routing
from moe.serve.errors import RequestError, check_known_name


@dataclass(frozen=True)
class ChatRequest:
    """One chat to continue.

    Args:
        turns: messages of the chat, each with `role` and `content`.
        streamer: transformers streamer that receives each token as it is generated.
        stop: set when the client no longer waits; generation then stops.
    """

    turns: tuple[Mapping[str, str], ...]
    sampling: Sampling
    domain: str | None = None
    routing: Routing = "soft"
    streamer: Any = None
    stop: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class ChatResult:
    """A generated message, its token counts and the routing weights.

    Args:
        model: SHA-256 of the manifest of the model that generated it.
        experts: mean routing weight of each expert; None for a single expert.
        ended: whether the model ended the message; False if the token limit cut it.
    """

    model: str
    text: str
    experts: dict[str, float] | None
    prompt_tokens: int
    tokens: int
    ended: bool


class GenerateEngine:
    """Answers chats with a mixture on a causal language model.

    Args:
        template: prompt template that the mixture was trained with.
        model_sha256: SHA-256 of the model's manifest, returned with every response.

    Raises:
        Fault: if the model cannot generate text.
    """

    token_budget = 1  # every chat is a batch, since sampling settings and lengths differ

    def __init__(self, model: Mixture, template: str, model_sha256: str) -> None:
        generator = Generator(model, template)
        self.model, self.template, self.model_sha256 = model, template, model_sha256
        self.tokenizer, self.context = generator.tokenizer, generator.context_length or 0

    def estimate_tokens(self, request: ChatRequest) -> int:
        """Return the token budget: every chat fills a batch."""
        return self.token_budget

    def run_batch(self, requests: Sequence[ChatRequest]) -> list[Any]:
        """Return a `ChatResult` or an exception for each request."""
        return [self._generate_or_error(request) for request in requests]

    def _generate_or_error(self, request: ChatRequest) -> Any:
        try:
            return self._generate(request)
        except Exception as error:
            if request.streamer is not None:
                request.streamer.on_finalized_text("", stream_end=True)  # wakes the reader of the stream
            if isinstance(error, Fault):
                return RequestError(409, error)
            return error

    def _generate(self, request: ChatRequest) -> ChatResult:
        check_known_name("domain", request.domain, [domain.name for domain in self.model.domains])
        mode = self.model.mode.as_hard(request.routing == "hard")
        generator = Generator(self.model, self.template, request.sampling, mode)
        ids = generator.encode(request.turns)
        (generated,) = generator.generate([ids], request.domain, request.streamer, request.stop.is_set)
        return ChatResult(
            model=self.model_sha256,
            text=generated.text,
            experts=generated.routing_weights,
            prompt_tokens=len(ids),
            tokens=generated.new_tokens,
            ended=generated.finished,
        )
