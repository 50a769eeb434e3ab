"""What is sent to the service and comes back, as OpenAPI describes it; limits are those of the settings.

A request is held against these strictly, so that nothing is guessed; answers are made elsewhere, and only described.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, create_model

from moe.serve.settings import ServeSettings

STRICT_CONFIG = ConfigDict(extra="forbid", strict=True)


def _whole(value: Any) -> Any:
    """A number without a fraction: to JSON 2.0 is the same integer as 2."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


JsonInteger = BeforeValidator(_whole)


def nonblank_text(most: int) -> Any:
    """The type of a text with something in it, of at most so many characters."""
    return Annotated[str, StringConstraints(min_length=1, max_length=most, pattern=r"\S")]


def build_predict_request(settings: ServeSettings) -> type[BaseModel]:
    """The body of `POST /v1/predict`."""
    text = nonblank_text(settings.max_text_chars)
    several = Annotated[list[text], Field(min_length=1, max_length=settings.max_texts)]  # type: ignore[valid-type]
    fields: dict[str, Any] = {
        "texts": (
            text | several,
            Field(description="a text, or several", examples=[["Profit fell less than feared."]]),
        ),
        "domain": (str | None, Field(None, description="this domain's experts alone answer; else the router decides")),
        "task": (str | None, Field(None, description="the task to answer, where a domain has several")),
        "routing": (Literal["soft", "hard"], Field("soft", description="blend experts, or ask the most probable one")),
        "abstain": (
            float | None,
            Field(None, gt=0, lt=1, description="give no label below the confidence that this accuracy needs"),
        ),
    }
    return create_model("PredictRequest", __config__=STRICT_CONFIG, **fields)


class PredictionBody(BaseModel):
    """An answer: the fields of `moe infer --json`."""

    label: str | None = Field(description="the most probable label; null where the model abstained")
    probabilities: dict[str, float]
    polarity: float | None = Field(description="−1 to 1; null where labels have no sign")
    confidence: float
    experts: dict[str, float] = Field(description="each expert's soft share")
    routing_entropy: float = Field(description="0 (one expert) to 1 (all alike)")
    truncated: bool = Field(description="whether the text was longer than the model reads")
    task: str
    abstained: bool = Field(False, description="only where the request has `abstain`")


class TextPrediction(PredictionBody):
    """One text's answer."""

    text: str


class PredictResponse(BaseModel):
    """Answers in the order of the texts."""

    model: str = Field(description="SHA-256 of the manifest of the model that answered")
    answers: list[TextPrediction]


class ExpertInfo(BaseModel):
    """One expert of the model."""

    domain: str | None = Field(description="null of a shared expert")
    rank: int
    sha256: str | None = Field(description="of its weights, as the manifest has it")


class RequestLimits(BaseModel):
    """The most that is taken."""

    texts: int = Field(description="of a request")
    text_chars: int = Field(description="characters of a text")
    body_bytes: int = Field(description="bytes of a request's body")
    new_tokens: int = Field(description="of a chat's answer")


def request_limits(settings: ServeSettings) -> dict[str, int]:
    """The most that a service of these settings takes."""
    return {
        "texts": settings.max_texts,
        "text_chars": settings.max_text_chars,
        "body_bytes": settings.max_body_bytes,
        "new_tokens": settings.max_new_tokens,
    }


class ModelInfo(BaseModel):
    """The model that answers now."""

    name: str = Field(description="its folder's name")
    kind: Literal["mixture", "expert"]
    sha256: str = Field(description="of its manifest, which holds the hash of every file")
    answers: Literal["labels", "language"]
    backbone: dict[str, str | None] = Field(description="name, revision, sha256 of its weights, dtype, device")
    max_length: int = Field(description="tokens that are read of a text")
    experts: dict[str, ExpertInfo]
    labels: dict[str, dict[str, list[str]]] = Field(description="by domain, then by task")
    calibrated: bool
    since: str = Field(description="when it began to answer")
    limits: RequestLimits


class HealthStatus(BaseModel):
    """Whether it is well."""

    status: str


class ReloadResult(BaseModel):
    """What a reload did."""

    before: str = Field(description="SHA-256 of the model until now")
    now: str = Field(description="SHA-256 of the model from now on")
