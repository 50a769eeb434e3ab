"""`POST /v1/explain`: word attributions for the label and for the routing, and the prediction of each expert alone.

An explanation waits in the same queue as other requests; each of its integration steps counts as a text.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, create_model

from moe.explain.explain import STEPS
from moe.serve.engine_explain import ExplainRequest
from moe.serve.errors import encode_answer, error_responses
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import (
    MODEL_DESCRIPTION,
    STRICT_CONFIG,
    JsonInteger,
    PredictionBody,
    model_field,
    nonblank_text,
    routing_fields,
    target_text,
    task_field,
    validated_by,
)
from moe.serve.settings import ServeSettings


class WordContribution(BaseModel):
    """Contribution of one word."""

    word: str
    start: int = Field(description="offset of its first character in the text, in Unicode code points")
    end: int = Field(description="offset after its last character")
    weight: float = Field(
        description="in log-odds: positive supports the label or expert, negative opposes it; of a score in its units"
    )


class TargetAttribution(BaseModel):
    """Word attributions for one label or one expert."""

    of: str = Field(description="the label or the expert; `score` for a task with a score alone")
    words: list[WordContribution]
    value: float = Field(description="log-odds, or the score, for this text")
    blank: float = Field(description="the same for the text with every word replaced by the blank token")
    delta: float = Field(
        description="completeness error: by how much the sum of the weights misses `value` − `blank`; "
        "near 0 if there were enough steps"
    )


class SingleExpertPrediction(BaseModel):
    """Prediction of one expert without the others."""

    share: float = Field(description="routing weight of the expert for this text")
    label: str | None = Field(description="null for a task with a score alone")
    probability: float | None = Field(description="of the label; likewise")
    score: float | None = Field(None, description="only present for a task with a score alone")


class ExplainResponse(BaseModel):
    """Prediction for one text and its explanation."""

    model: str = Field(description=MODEL_DESCRIPTION)
    text: str
    answer: PredictionBody
    why: TargetAttribution = Field(description="word attributions for the predicted label")
    router: TargetAttribution | None = Field(
        description="word attributions for the routing weight of the expert with the largest one"
    )
    unrouted: str | None = Field(description="why `router` is null")
    alone: dict[str, SingleExpertPrediction] = Field(description="prediction of each expert alone")
    target: str | None = Field(None, description="only present with a target, whose words are not attributed")
    blank: str = Field(description="token that replaces words in the blank text")
    steps: int = Field(description="integration steps")


def build_explain_request(settings: ServeSettings) -> type[BaseModel]:
    """Build the model of the request body."""
    steps = Annotated[int, Field(ge=1, le=STEPS), JsonInteger]
    common = routing_fields()
    fields: dict[str, Any] = {
        "text": (nonblank_text(settings.max_text_chars), Field(description="the text to explain")),
        "target": (
            target_text(settings) | None,
            Field(None, description="entity of the text that the prediction is about, if the model has such a task"),
        ),
        "domain": common["domain"],
        "task": task_field(),
        "routing": common["routing"],
        "model": model_field(),
        "steps": (steps | None, Field(None, description="integration steps; by default fewer for longer texts")),
    }
    return create_model("ExplainRequest", __config__=STRICT_CONFIG, **fields)


def add_explain_routes(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""

    @routes.post(
        "/v1/explain",
        response_model=ExplainResponse,
        responses=error_responses(404, 409, 422, 501, 504),
        summary="Explain a prediction",
    )
    @validated_by(build_explain_request(manager.settings))
    async def explain_(body: BaseModel, request: Request) -> Response:
        """Return the prediction for a text, word attributions by integrated gradients, and each expert's prediction."""
        fields: dict[str, Any] = dict(body)
        model = manager.find(fields.pop("model"))
        explain_request = ExplainRequest(**fields)
        request.scope["texts"] = 1
        content = await manager.run(explain_request, explain_request.steps or STEPS, model)
        return Response(encode_answer(content), media_type="application/json")
