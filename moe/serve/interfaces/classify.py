"""`POST /classify` in the form of vLLM's classification API: label and probabilities of each text, and token counts."""

import time
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, conlist, create_model

from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import encode_answer, error_responses
from moe.serve.interfaces.answers import Answer, QueryName, check_complete, choose_name, classify, common_fields
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import STRICT_CONFIG, JsonInteger, TokenUsage, nonblank_text, validated_by
from moe.serve.settings import ServeSettings


class ClassifiedText(BaseModel):
    """Classification of one text."""

    index: int
    label: str = Field(description="most probable label")
    probs: list[float] = Field(description="probabilities of the task's labels, in the order of `GET /v1/models`")
    num_classes: int


class ClassifyResponse(BaseModel):
    """Classifications in the order of the texts."""

    id: str
    object: Literal["list"]
    created: int = Field(description="Unix time in seconds")
    model: str = Field(description="name of the model")
    data: list[ClassifiedText]
    usage: TokenUsage = Field(description="tokens that were read, special tokens included")


def build_classify_request(settings: ServeSettings) -> type[BaseModel]:
    """Build the model of the request body; other fields of vLLM's API are rejected, not ignored."""
    text = nonblank_text(settings.max_text_chars)
    texts = conlist(text, min_length=1, max_length=settings.max_texts)
    fields: dict[str, Any] = {
        "input": (text | texts, Field(description="one text or a list of texts", examples=["Sales rose again."])),
        "truncate_prompt_tokens": (
            Annotated[Literal[-1], JsonInteger] | None,
            Field(None, description="-1: read the start of a text that is too long, instead of 409"),
        ),
        "use_activation": (
            bool | None,
            Field(None, description="false: logits before calibration instead of probabilities"),
        ),
        "user": (str | None, Field(None, max_length=200, description="ignored")),
        **common_fields(),
    }
    return create_model("ClassifyRequest", __config__=STRICT_CONFIG, **fields)


def add_classify_route(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""

    @routes.post(
        "/classify",
        response_model=ClassifyResponse,
        responses=error_responses(404, 409, 422, 504),
        summary="Classify texts, in the form of vLLM",
    )
    @validated_by(build_classify_request(manager.settings))
    async def classify_(body: BaseModel, request: Request, model: QueryName = None, task: QueryName = None) -> Response:
        """Return label and probabilities of each text for one task."""
        options: Any = body
        texts = (options.input,) if isinstance(options.input, str) else tuple(options.input)
        request.scope["texts"] = len(texts)
        to_classify = ClassifyRequest(
            texts=texts,
            task=choose_name("task", options.task, task),
            domain=options.domain,
            fixed_task=True,
            details=True,
        )
        served = manager.find(choose_name("model", options.model, model))
        answers = await classify(manager, served, to_classify)
        if options.truncate_prompt_tokens is None:
            check_complete(answers, "set truncate_prompt_tokens to -1")
        raw = options.use_activation is False
        data = [_to_data(index, answer, raw=raw) for index, answer in enumerate(answers)]
        tokens = sum(answer.tokens for answer in answers)
        head = {"id": f"classify-{uuid4().hex}", "object": "list", "created": int(time.time()), "model": served.name}
        usage = {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens}
        return Response(encode_answer(head | {"data": data, "usage": usage}), media_type="application/json")


def _to_data(index: int, answer: Answer, *, raw: bool) -> dict[str, object]:
    values = list(answer.scores(raw=raw).values())
    return {"index": index, "label": answer.label, "probs": values, "num_classes": len(values)}
