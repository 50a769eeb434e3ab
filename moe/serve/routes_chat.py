"""`POST /v1/chat/completions` in OpenAI's form: whole, or as a stream of pieces.

What is written is `moe.serve.engine_generate`'s. Three fields are ours: `domain` and `routing` of a request, `experts`
of an answer.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, Field, create_model
from transformers import AsyncTextIteratorStreamer

from moe.inference.generator import Sampling
from moe.serve.engine_generate import ChatRequest, ChatResult
from moe.serve.errors import ERROR_TYPES, RequestError, error_responses
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import STRICT_CONFIG, JsonInteger, nonblank_text
from moe.serve.settings import ServeSettings

DEFAULT_SAMPLING = Sampling()
EVENT_SCHEMA = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


class StreamOptions(BaseModel):
    """What a stream has besides the answer."""

    model_config = STRICT_CONFIG

    include_usage: bool = False


def build_chat_request(settings: ServeSettings) -> type[BaseModel]:
    """The body of a request; what OpenAI's has and this one has not is refused, not passed over."""
    said: Any = {
        "role": (Literal["system", "user", "assistant"], ...),
        "content": (nonblank_text(settings.max_text_chars), ...),
    }
    turn = create_model("Turn", __config__=STRICT_CONFIG, **said)
    most = Annotated[int, Field(ge=1, le=settings.max_new_tokens), JsonInteger]
    usual = f"most tokens of the answer; else {DEFAULT_SAMPLING.max_new_tokens}, or half of the context"
    fields: dict[str, Any] = {
        "model": (str, Field("", max_length=200, description="any name: the model that is served answers")),
        "messages": (list[turn], Field(min_length=1, max_length=settings.max_texts)),
        "max_completion_tokens": (most | None, Field(None, description=usual)),
        "max_tokens": (most | None, Field(None, description="the same, by its older name")),
        "temperature": (float, Field(DEFAULT_SAMPLING.temperature, ge=0, le=2, description="0 is the likeliest token")),
        "top_p": (float, Field(DEFAULT_SAMPLING.top_p, gt=0, le=1, description="draw among the likeliest of this probability")),
        "seed": (Annotated[int, Field(ge=0, lt=2**53), JsonInteger], Field(DEFAULT_SAMPLING.seed, description="of the draws")),
        "n": (Annotated[Literal[1], JsonInteger], Field(1, description="answers; one")),
        "stream": (bool, Field(False, description="piece by piece, as events")),
        "stream_options": (StreamOptions | None, None),
        "user": (str | None, Field(None, max_length=200, description="not looked at")),
        "domain": (str | None, Field(None, description="this domain's experts alone answer; else the router decides")),
        "routing": (Literal["soft", "hard"], Field("soft", description="blend experts, or ask the most probable one")),
    }
    return create_model("ChatRequest", __config__=STRICT_CONFIG, **fields)


class ChatMessage(BaseModel):
    """The answer's turn."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """The one answer."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class TokenUsage(BaseModel):
    """Tokens that it took."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class ChatResponse(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str = Field(description="SHA-256 of the manifest of the model that answered")
    choices: list[ChatChoice]
    usage: TokenUsage
    experts: dict[str, float] | None = Field(description="each expert's share; null of a lone expert")


def add_chat_routes(routes: APIRouter, service: ModelManager) -> None:
    """Hang up the address."""
    form = build_chat_request(service.settings)
    events: Any = {200: {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}}}

    @routes.post("/v1/chat/completions", response_model=ChatResponse, responses=error_responses(409, 422, 503, 504) | events)
    async def chat(asked: form, request: Request) -> Response:  # type: ignore[valid-type]
        """Answer a chat by the mixture's experts."""
        body: Any = asked
        request.scope["texts"] = 1
        one = _asked(body, service)
        if not body.stream:
            return JSONResponse(await _whole(service, one))
        stream = _ChatStream(service, one, bool(body.stream_options and body.stream_options.include_usage))
        return StreamingResponse(await stream.begin(), media_type="text/event-stream")


def _asked(body: Any, service: ModelManager) -> ChatRequest:
    engine: Any = service.served.engine
    usual = min(DEFAULT_SAMPLING.max_new_tokens, service.settings.max_new_tokens, (engine.context or 256) // 2)
    most = body.max_completion_tokens or body.max_tokens or usual
    streamer = None
    if body.stream:
        streamer = AsyncTextIteratorStreamer(engine.tokenizer, skip_prompt=True, skip_special_tokens=True)
    turns = tuple({"role": one.role, "content": one.content} for one in body.messages)
    sampling = Sampling(most, body.temperature, body.top_p, body.seed)
    return ChatRequest(turns, sampling, body.domain, body.routing, streamer)


async def _whole(service: ModelManager, asked: ChatRequest) -> dict[str, Any]:
    try:
        said: ChatResult = await service.answer(asked, 1)
    finally:
        asked.stop.set()
    service.metrics.answered([said.experts])
    message = {"role": "assistant", "content": said.text}
    choice = {"index": 0, "message": message, "finish_reason": _reason(said)}
    head = _head("chat.completion") | {"model": said.model, "choices": [choice]}
    return head | {"usage": _usage(said), "experts": said.experts}


def _head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time())}


def _usage(said: ChatResult) -> dict[str, int]:
    whole = said.prompt_tokens + said.tokens
    return {"prompt_tokens": said.prompt_tokens, "completion_tokens": said.tokens, "total_tokens": whole}


def _reason(said: ChatResult) -> str:
    return "stop" if said.ended else "length"


class _ChatStream:
    """One answer as events.

    Args:
        usage: tell the tokens at the end.
    """

    def __init__(self, service: ModelManager, asked: ChatRequest, usage: bool) -> None:
        self.service, self.asked, self.usage = service, asked, usage
        self.head = _head("chat.completion.chunk") | {"model": service.served.sha256}
        self.end = time.monotonic() + service.settings.timeout_s

    async def begin(self) -> AsyncIterator[str]:
        """The events; what is refused is refused before the first.

        Raises:
            Refused: when the queue is full, or the model refuses; when the first piece takes too long.
        """
        done = self.service.put(self.asked, 1)
        try:
            first = await self._piece()
            if first is None:
                await done  # it ended before it began: by an error, or with an empty answer
        except BaseException:
            self._leave(done)
            raise
        return self._events(first, done)

    async def _piece(self) -> str | None:
        """The next piece, None at the end.

        Raises:
            Refused: when it takes too long.
        """
        try:
            async with asyncio.timeout(self.end - time.monotonic()):
                return await anext((piece async for piece in self.asked.streamer if piece), None)
        except TimeoutError as error:
            raise self.service.too_slow() from error

    def _leave(self, done: asyncio.Future[ChatResult]) -> None:
        self.asked.stop.set()
        done.cancel()

    async def _events(self, piece: str | None, done: asyncio.Future[ChatResult]) -> AsyncIterator[str]:
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            white = ""  # held back, so that all pieces together are the whole answer, which is stripped
            begun = False
            while piece is not None:
                text = (white if begun else "") + (piece if begun else piece.lstrip())
                spoken_, begun = text.rstrip(), begun or bool(text)
                white = text[len(spoken_) :]
                if spoken_:
                    yield self._chunk({"content": spoken_})
                piece = await self._piece()
            yield self._last(await done)
        except RequestError as no:
            yield _event({"error": {"message": str(no.fault), "type": ERROR_TYPES[no.status]}})
        finally:
            self._leave(done)
        yield "data: [DONE]\n\n"

    def _last(self, said: ChatResult) -> str:
        self.service.metrics.answered([said.experts])
        last = self._chunk({}, _reason(said), said.experts)
        usage = self.head | {"choices": [], "usage": _usage(said)}
        return last + (_event(usage) if self.usage else "")

    def _chunk(self, delta: dict[str, str], reason: str | None = None, experts: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": reason}
        return _event(self.head | {"choices": [choice]} | ({"experts": experts} if reason else {}))


def _event(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content)}\n\n"
