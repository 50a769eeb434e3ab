"""Pydantic models of request and response bodies, which also make up the OpenAPI document.

Request bodies are validated strictly, without type coercion; their limits come from the settings. Response models
only document what the routes return.
"""

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, conlist, create_model

from moe.data.text_checks import MAX_TARGETS
from moe.model.mode import RoutingChoice
from moe.serve.settings import ServeSettings

MAX_NAME = 200
"""Most characters of the name of a model or a task in a request."""
STRICT_CONFIG = ConfigDict(extra="forbid", strict=True)
MODEL_DESCRIPTION = "SHA-256 of the manifest of the model that produced this response"


def _integer(value: Any) -> Any:
    """Accept 2.0 as 2: JSON has one number type."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Handler = TypeVar("Handler", bound=Callable[..., object])


def validated_by(model: type[BaseModel]) -> Callable[[Handler], Handler]:
    """Decorate a route whose argument `body` FastAPI shall validate by a model that is built at run time."""

    def annotate(handler: Handler) -> Handler:
        handler.__annotations__["body"] = model
        return handler

    return annotate


JsonInteger = BeforeValidator(_integer)


def nonblank_text(max_length: int) -> Any:
    """Return the type of a text with at least one visible character and at most `max_length` characters."""
    return Annotated[str, StringConstraints(min_length=1, max_length=max_length, pattern=r"\S")]


def routing_fields(language: bool = False) -> dict[str, tuple[Any, Any]]:
    """Return the fields `domain` and `routing`, common to all request bodies.

    Args:
        language: for a language model, whose routing is `soft` or `hard`.
    """
    blended = "`soft` blends the experts by their routing weights, `hard` uses the one with the largest"
    pruned = "`pruned` drops small weights, `auto` is what was chosen when the model was saved"
    return {
        "domain": (
            str | None,
            Field(None, description="use only the experts of this domain; by default the router decides"),
        ),
        "routing": (
            Literal["soft", "hard"] if language else RoutingChoice,
            Field("soft" if language else "auto", description=blended if language else f"{blended}, {pruned}"),
        ),
    }


def model_field() -> Any:
    """Return the field `model` of request bodies."""
    description = "name of the model, of `GET /v1/models`; by default the first"
    return (str | None, Field(None, max_length=MAX_NAME, description=description))


def task_field() -> Any:
    """Return the field `task` of classification request bodies."""
    return (str | None, Field(None, description="task to predict, for a domain with several tasks"))


def target_text(settings: ServeSettings) -> Any:
    """Return the type of a target: a text that is not blank."""
    return nonblank_text(settings.max_text_chars)


def build_predict_request(settings: ServeSettings) -> type[BaseModel]:
    """Build the model of the request body of `POST /v1/predict`."""
    text = nonblank_text(settings.max_text_chars)
    texts = conlist(text, min_length=1, max_length=settings.max_texts)
    common = routing_fields()
    fields: dict[str, Any] = {
        "texts": (
            text | texts,
            Field(description="one text or a list of texts", examples=[["Profit fell less than feared."]]),
        ),
        "targets": (
            conlist(target_text(settings), max_length=MAX_TARGETS),
            Field([], description="entities for each of which every text is predicted, if the model has such a task"),
        ),
        "domain": common["domain"],
        "task": task_field(),
        "routing": common["routing"],
        "abstain": (
            float | None,
            Field(
                None,
                gt=0,
                lt=1,
                description="target accuracy: return no label where the confidence is too low to reach it; the "
                "threshold holds at the level of the calibration, for texts like its validation rows; 409 if no "
                "threshold does; needs a calibrated model",
            ),
        ),
        "label_sets": (
            bool,
            Field(
                False,
                description="also return each text's conformal set of labels, at the level of the calibration; 409 if "
                "the model has none",
            ),
        ),
        "model": model_field(),
    }
    return create_model("PredictRequest", __config__=STRICT_CONFIG, **fields)


class PredictionBody(BaseModel):
    """Prediction for one text, with the fields of `moe infer --json`."""

    label: str | None = Field(
        description="most probable label, of a multi-label task all predicted labels with `;` between them; null if "
        "the model abstained, and for a task with a score alone"
    )
    labels: list[str] | None = Field(
        None, description="predicted labels; null if the model abstained; only present for a multi-label task"
    )
    probabilities: dict[str, float] = Field(
        description="probability of each label; empty for a task with a score alone"
    )
    polarity: float | None = Field(
        description="−1 (negative) to 1 (positive), the score of a task with a score alone; null if the labels have no "
        "polarity"
    )
    confidence: float | None = Field(
        description="probability of the most probable label; of a multi-label task the product of the probabilities of "
        "all its decisions; null for a task with a score alone"
    )
    experts: dict[str, float] = Field(description="routing weight of each expert")
    routing_entropy: float = Field(description="0 (a single expert) to 1 (equal routing weights)")
    truncated: bool = Field(description="whether the text was longer than the model reads and was cut")
    task: str = Field(description="task that was predicted")
    abstained: bool = Field(False, description="only present if the request sets `abstain`")
    label_set: list[str] = Field([], description="only present if the request sets `label_sets`; never empty")
    windows: int = Field(1, description="windows in which a long text was read; only present if more than one")
    target: str | None = Field(None, description="entity that the prediction is about; only present with targets")
    target_missing: bool = Field(False, description="only present, as a warning, if the text does not contain it")
    target_truncated: bool = Field(False, description="only present, as a warning, if it was too long and was cut")
    unfamiliar: bool = Field(
        False, description="only present, as a warning, if the text is far from the training texts of every domain"
    )


class TextPrediction(PredictionBody):
    """A text and its prediction."""

    text: str


class PredictResponse(BaseModel):
    """Predictions in the order of the texts, and of the targets of each text."""

    model: str = Field(description=MODEL_DESCRIPTION)
    answers: list[TextPrediction]


class ExpertInfo(BaseModel):
    """One expert of the model."""

    domain: str | None = Field(description="null for a shared expert")
    rank: int = Field(description="largest LoRA rank of its layers")
    sha256: str | None = Field(description="SHA-256 of its weights, from the manifest")


class RequestLimits(BaseModel):
    """Limits of a request."""

    texts: int = Field(description="texts per request")
    text_chars: int = Field(description="characters per text")
    targets: int = Field(description="targets per request")
    body_bytes: int = Field(description="bytes of the request body")
    new_tokens: int = Field(description="tokens of a generated message")


def request_limits(settings: ServeSettings) -> dict[str, int]:
    """Return the fields of `RequestLimits` for these settings."""
    return {
        "texts": settings.max_texts,
        "text_chars": settings.max_text_chars,
        "targets": MAX_TARGETS,
        "body_bytes": settings.max_body_bytes,
        "new_tokens": settings.max_new_tokens,
    }


class ModelInfo(BaseModel):
    """The model in use."""

    name: str = Field(description="name of its folder")
    kind: Literal["mixture", "expert"]
    sha256: str = Field(description="SHA-256 of its manifest, which lists the hash of every file")
    answers: Literal["labels", "language"] = Field(description="output: labels (classification) or generated text")
    backbone: dict[str, str | None] = Field(description="name, revision, SHA-256 of the weights, dtype and device")
    max_length: int = Field(description="maximum number of tokens per text; longer texts are truncated")
    experts: dict[str, ExpertInfo]
    labels: dict[str, dict[str, list[str]]] = Field(description="labels by domain and task")
    targets: list[str] = Field(description="its tasks about a target, an entity of the text")
    calibrated: bool = Field(description="whether probabilities are calibrated, as `abstain` requires")
    calibrated_tasks: list[str] = Field(description="tasks whose probabilities are calibrated")
    card: bool = Field(description="whether `GET /card` has a model card")
    since: str = Field(description="time when it was loaded, ISO 8601")
    limits: RequestLimits


class TokenUsage(BaseModel):
    """Token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class HealthStatus(BaseModel):
    """State of the service."""

    status: str


class ReloadResult(BaseModel):
    """Models before and after a reload."""

    before: str = Field(description="SHA-256 of the manifest of the previous model")
    now: str = Field(description="SHA-256 of the manifest of the model now in use")
