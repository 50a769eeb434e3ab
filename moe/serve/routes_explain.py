"""`POST /v1/explain`: why a text is answered as it is, by words and by what each expert alone would say.

An explanation waits in the queue that texts wait in, where each of its steps counts as a text. How it is
computed is `moe.serve.engine_explain`'s.
"""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, create_model

from moe.explain.explain import STEPS
from moe.serve.engine_explain import ExplainRequest
from moe.serve.errors import error_responses
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import STRICT_CONFIG, PredictionBody, JsonInteger, nonblank_text
from moe.serve.settings import ServeSettings


class WordContribution(BaseModel):
    """What one word adds."""

    word: str
    start: int = Field(description="its first character in the text, counted in Unicode code points")
    end: int = Field(description="the first character after it")
    weight: float = Field(description="in log-odds; above 0 it speaks for, below 0 against")


class TargetAttribution(BaseModel):
    """The words for and against one label, or one expert."""

    of: str
    words: list[WordContribution]
    value: float = Field(description="log-odds on this text")
    blank: float = Field(description="log-odds with every word blank")
    delta: float = Field(description="what the words' sum is off; near 0 where the steps sufficed")


class SingleExpertPrediction(BaseModel):
    """What one expert alone would have said."""

    share: float
    label: str
    probability: float


class ExplainResponse(BaseModel):
    """One text's answer, and why."""

    model: str = Field(description="SHA-256 of the manifest of the model that answered")
    text: str
    answer: PredictionBody
    why: TargetAttribution = Field(description="the words for and against the label")
    router: TargetAttribution | None = Field(description="the words for and against the expert with the largest share")
    unrouted: str | None = Field(description="why there are none")
    alone: dict[str, SingleExpertPrediction] = Field(description="by expert, what it alone would have said")
    blank: str = Field(description="the token that a blank word is")
    steps: int


def build_explain_request(settings: ServeSettings) -> type[BaseModel]:
    """The body of a request."""
    points = Annotated[int, Field(ge=1, le=STEPS), JsonInteger]
    fields: dict[str, Any] = {
        "text": (nonblank_text(settings.max_text_chars), Field(description="a text")),
        "domain": (str | None, Field(None, description="this domain's experts alone answer; else the router decides")),
        "task": (str | None, Field(None, description="the task to answer, where a domain has several")),
        "routing": (Literal["soft", "hard"], Field("soft", description="blend experts, or ask the most probable one")),
        "steps": (points | None, Field(None, description="points of the integral; by default fewer for a longer text")),
    }
    return create_model("ExplainRequest", __config__=STRICT_CONFIG, **fields)


def add_explain_routes(routes: APIRouter, service: ModelManager) -> None:
    """Hang up the address."""
    form = build_explain_request(service.settings)

    @routes.post("/v1/explain", response_model=ExplainResponse, responses=error_responses(409, 422, 501, 503, 504))
    async def explain_(asked: form, request: Request) -> Response:  # type: ignore[valid-type]
        """Say why a text is answered as it is: words for and against its label, and each expert alone."""
        one = ExplainRequest(**dict(asked))
        request.scope["texts"] = 1
        return JSONResponse(await service.answer(one, one.steps or STEPS))
