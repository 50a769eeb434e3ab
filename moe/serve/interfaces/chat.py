"""`POST /v1/chat/completions` in OpenAI's format, as one response or as a stream of server-sent events.

Extensions of the format: `domain` and `routing` of a request, `experts` of a response.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field, create_model
from transformers import AsyncTextIteratorStreamer

from moe.inference.generator import Sampling
from moe.serve.engine_generate import ChatRequest, ChatResult
from moe.serve.errors import ERROR_TYPES, RequestError, encode_answer, error_responses
from moe.serve.hosted_model import HostedModel
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import (
    MAX_NAME,
    MODEL_DESCRIPTION,
    STRICT_CONFIG,
    JsonInteger,
    TokenUsage,
    nonblank_text,
    routing_fields,
    validated_by,
)
from moe.serve.settings import ServeSettings

DEFAULT_SAMPLING = Sampling()
EVENT_SCHEMA = {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}


class StreamOptions(BaseModel):
    """Options of a streamed response."""

    model_config = STRICT_CONFIG

    include_usage: bool = False


def build_chat_request(settings: ServeSettings) -> type[BaseModel]:
    """Build the model of the request body; fields of OpenAI's API that it lacks are rejected, not ignored."""
    message_fields: Any = {
        "role": (Literal["system", "user", "assistant"], ...),
        "content": (nonblank_text(settings.max_text_chars), ...),
    }
    message = create_model("RequestMessage", __config__=STRICT_CONFIG, **message_fields)
    max_tokens = Annotated[int, Field(ge=1, le=settings.max_new_tokens), JsonInteger]
    limit = f"maximum number of generated tokens; default: {DEFAULT_SAMPLING.max_new_tokens}, or half of the context"
    top_p = "nucleus sampling: sample from the most probable tokens with this total probability"
    fields: dict[str, Any] = {
        "model": (
            str,
            Field(
                "", max_length=MAX_NAME, description="name of the model, of `GET /v1/models`; ignored if there is one"
            ),
        ),
        "messages": (list[message], Field(min_length=1, max_length=settings.max_texts)),
        "max_completion_tokens": (max_tokens | None, Field(None, description=limit)),
        "max_tokens": (max_tokens | None, Field(None, description="older name of `max_completion_tokens`")),
        "temperature": (
            float,
            Field(DEFAULT_SAMPLING.temperature, ge=0, le=2, description="sampling temperature; 0 is greedy decoding"),
        ),
        "top_p": (float, Field(DEFAULT_SAMPLING.top_p, gt=0, le=1, description=top_p)),
        "seed": (
            Annotated[int, Field(ge=0, lt=2**53), JsonInteger],
            Field(DEFAULT_SAMPLING.seed, description="random seed of sampling"),
        ),
        "n": (Annotated[Literal[1], JsonInteger], Field(1, description="number of choices; only 1 is supported")),
        "stream": (bool, Field(False, description="stream the message as server-sent events")),
        "stream_options": (StreamOptions | None, None),
        "user": (str | None, Field(None, max_length=200, description="ignored")),
        **routing_fields(language=True),
    }
    return create_model("ChatRequest", __config__=STRICT_CONFIG, **fields)


class ChatMessage(BaseModel):
    """The generated message."""

    role: Literal["assistant"]
    content: str


class ChatChoice(BaseModel):
    """The generated choice; there is always exactly one."""

    index: int
    message: ChatMessage
    finish_reason: Literal["stop", "length"]


class ChatResponse(BaseModel):
    """A complete response."""

    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Unix time in seconds")
    model: str = Field(description=MODEL_DESCRIPTION)
    choices: list[ChatChoice]
    usage: TokenUsage
    experts: dict[str, float] | None = Field(description="mean routing weight of each expert; null for a single expert")


def add_chat_routes(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""
    events: Any = {200: {"content": {"text/event-stream": {"schema": EVENT_SCHEMA}}}}

    @routes.post(
        "/v1/chat/completions",
        response_model=ChatResponse,
        responses=error_responses(404, 409, 422, 504) | events,
        summary="Generate the next message of a chat",
    )
    @validated_by(build_chat_request(manager.settings))
    async def chat(body: BaseModel, request: Request) -> Response:
        """Answer a chat in OpenAI's format with the mixture; `stream` returns server-sent events."""
        options: Any = body
        request.scope["texts"] = 1
        model = manager.find((options.model or None) if len(manager.models) > 1 else None)
        chat_request = _to_chat_request(options, manager, model)
        if not options.stream:
            return Response(await _complete(manager, chat_request, model), media_type="application/json")
        include_usage = bool(options.stream_options and options.stream_options.include_usage)
        stream = _ChatStream(manager, chat_request, model, include_usage)
        return StreamingResponse(await stream.start(), media_type="text/event-stream")


def _to_chat_request(body: Any, manager: ModelManager, model: HostedModel) -> ChatRequest:
    engine: Any = model.served.engine
    default = min(DEFAULT_SAMPLING.max_new_tokens, manager.settings.max_new_tokens, (engine.context or 256) // 2)
    streamer = None
    if body.stream:
        streamer = AsyncTextIteratorStreamer(engine.tokenizer, skip_prompt=True, skip_special_tokens=True)
    return ChatRequest(
        turns=tuple({"role": message.role, "content": message.content} for message in body.messages),
        sampling=Sampling(
            body.max_completion_tokens or body.max_tokens or default, body.temperature, body.top_p, body.seed
        ),
        domain=body.domain,
        routing=body.routing,
        streamer=streamer,
    )


async def _complete(manager: ModelManager, request: ChatRequest, model: HostedModel) -> bytes:
    try:
        result: ChatResult = await manager.run(request, 1, model)
    finally:
        request.stop.set()
    message = {"role": "assistant", "content": result.text}
    choice = {"index": 0, "message": message, "finish_reason": _finish_reason(result)}
    head = _response_head("chat.completion") | {"model": result.model, "choices": [choice]}
    answer = encode_answer(head | {"usage": _usage(result), "experts": result.experts})
    manager.metrics.count_results([result.experts])
    return answer


def _response_head(kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time())}


def _usage(result: ChatResult) -> dict[str, int]:
    return {
        "prompt_tokens": result.prompt_tokens,
        "completion_tokens": result.tokens,
        "total_tokens": result.prompt_tokens + result.tokens,
    }


def _finish_reason(result: ChatResult) -> str:
    return "stop" if result.ended else "length"


class _ChatStream:
    """A response as server-sent events.

    Args:
        include_usage: send the token counts as the last chunk.
    """

    def __init__(self, manager: ModelManager, request: ChatRequest, model: HostedModel, include_usage: bool) -> None:
        self.manager, self.request, self.model, self.include_usage = manager, request, model, include_usage
        self.head = _response_head("chat.completion.chunk") | {"model": model.served.sha256}
        self.deadline = time.monotonic() + manager.settings.timeout_s

    async def start(self) -> AsyncIterator[str]:
        """Submit the request, wait for the first piece of text and return the events.

        Raises:
            RequestError: if the queue is full, the model rejects the request, or the first piece takes too long.
        """
        future = self.manager.submit(self.request, 1, self.model)
        try:
            first = await self._next_piece()
            if first is None:
                await future  # generation failed, or the message is empty
        except BaseException:
            self._cancel(future)
            raise
        return self._events(first, future)

    async def _next_piece(self) -> str | None:
        """Return the next piece of text, None at the end.

        Raises:
            RequestError: 504 if it takes too long.
        """
        try:
            async with asyncio.timeout(self.deadline - time.monotonic()):
                return await anext((piece async for piece in self.request.streamer if piece), None)
        except TimeoutError as error:
            raise self.manager.timeout_error() from error

    def _cancel(self, future: asyncio.Future[ChatResult]) -> None:
        self.request.stop.set()
        future.cancel()

    async def _events(self, piece: str | None, future: asyncio.Future[ChatResult]) -> AsyncIterator[str]:
        try:
            yield self._chunk({"role": "assistant", "content": ""})
            held_back = ""  # trailing white space, so that the pieces add up to the complete text, which is stripped
            started = False
            while piece is not None:
                text = (held_back if started else "") + (piece if started else piece.lstrip())
                visible, started = text.rstrip(), started or bool(text)
                held_back = text[len(visible) :]
                if visible:
                    yield self._chunk({"content": visible})
                piece = await self._next_piece()
            yield self._last_events(await future)
        except RequestError as error:
            yield _event({"error": {"message": str(error.fault), "type": ERROR_TYPES[error.status]}})
        finally:
            self._cancel(future)
        yield "data: [DONE]\n\n"

    def _last_events(self, result: ChatResult) -> str:
        last = self._chunk({}, _finish_reason(result), result.experts)
        self.manager.metrics.count_results([result.experts])
        usage = self.head | {"choices": [], "usage": _usage(result)}
        return last + (_event(usage) if self.include_usage else "")

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None, experts: Any = None) -> str:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return _event(self.head | {"choices": [choice]} | ({"experts": experts} if finish_reason else {}))


def _event(content: dict[str, Any]) -> str:
    return f"data: {encode_answer(content, ascii_only=True).decode()}\n\n"
