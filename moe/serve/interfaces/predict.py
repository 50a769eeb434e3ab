"""`POST /predict` in the form of text-embeddings-inference (TEI): scores of all labels, the largest first.

TEI's pairs of strings are a text and a target here. Its form has no place for routing weights; `/v1/predict` has.
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, conlist, create_model

from experts.errors import Fault
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import TEI_PATH, RequestError, TextEmbeddingsError, encode_answer, error_responses
from moe.serve.interfaces.answers import Answer, QueryName, check_complete, choose_name, classify, common_fields
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import STRICT_CONFIG, JsonInteger, nonblank_text, validated_by
from moe.serve.settings import ServeSettings


class LabelScore(BaseModel):
    """The score of one label."""

    score: float = Field(description="probability; with `raw_scores` the logit before calibration")
    label: str


class ClientParameters(BaseModel):
    """Options that clients of the Hugging Face Hub send beside the inputs."""

    model_config = STRICT_CONFIG

    top_k: Annotated[int, Field(ge=1, le=10_000), JsonInteger] | None = Field(
        None, description="number of labels to return"
    )
    function_to_apply: Literal["softmax", "none"] | None = Field(None, description="none: as `raw_scores`")


def build_scores_request(settings: ServeSettings) -> type[BaseModel]:
    """Build the model of the request body."""
    text = nonblank_text(settings.max_text_chars)
    one_or_pair = conlist(text, min_length=1, max_length=2)
    texts, batch = (conlist(item, min_length=1, max_length=settings.max_texts) for item in (text, one_or_pair))
    # `parse_inputs` refuses a longer list of texts, with a message that says what to send.
    flat = Annotated[texts, Field(json_schema_extra={"maxItems": 2})]  # type: ignore[valid-type]
    fields: dict[str, Any] = {
        "inputs": (
            text | flat | batch,
            Field(
                description="a text, [text], a pair [text, target], or a batch [[text], [text, target], ...]",
                examples=[[["Profit fell less than feared."], ["Sales rose again."]]],
            ),
        ),
        "truncate": (bool, Field(False, description="read the start of a text that is too long, instead of 409")),
        "parameters": (ClientParameters | None, Field(None, description="options of clients of the Hugging Face Hub")),
        "raw_scores": (bool, Field(False, description="logits before calibration instead of probabilities")),
        **common_fields(),
    }
    return create_model("ScoresRequest", __config__=STRICT_CONFIG, **fields)


def parse_inputs(inputs: Any) -> tuple[list[tuple[str, str | None]], bool]:
    """Return each text with its target or None, and whether the inputs are a batch.

    Raises:
        RequestError: 422 for a list of more than two texts, which is neither a pair nor a batch.
    """
    if isinstance(inputs, str):
        return [(inputs, None)], False
    is_batch = isinstance(inputs[0], list)
    if not is_batch and len(inputs) > 2:
        expected = "inputs: a text, [text], a pair [text, target], or a batch [[text], [text], ...]"
        raise RequestError(422, Fault(expected, f"a list of {len(inputs)} texts", "send them as [[text], [text], ...]"))
    rows = inputs if is_batch else [inputs]
    return [(row[0], row[1] if len(row) > 1 else None) for row in rows], is_batch


def add_scores_route(routes: APIRouter, manager: ModelManager) -> None:
    """Add the route."""

    @routes.post(
        TEI_PATH,
        response_model=list[LabelScore] | list[list[LabelScore]],
        responses=error_responses(404, 409, 422, 504, model=TextEmbeddingsError),
        summary="Classify texts, in the form of text-embeddings-inference",
    )
    @validated_by(build_scores_request(manager.settings))
    async def scores(body: BaseModel, request: Request, model: QueryName = None, task: QueryName = None) -> Response:
        """Return the scores of all labels of a task, the largest first; a list of them for a batch."""
        options: Any = body
        sequences, is_batch = parse_inputs(options.inputs)
        request.scope["texts"] = len(sequences)
        to_classify = ClassifyRequest(
            texts=tuple(text for text, _ in sequences),
            own_targets=tuple(target for _, target in sequences),
            task=choose_name("task", options.task, task),
            domain=options.domain,
            fixed_task=True,
            details=True,
        )
        served = manager.find(choose_name("model", options.model, model))
        answers = await classify(manager, served, to_classify)
        _check_targets(answers)
        if not options.truncate:
            check_complete(answers, "set truncate")
        given = options.parameters or ClientParameters.model_construct()
        raw = options.raw_scores or given.function_to_apply == "none"
        rows = [_sort_scores(answer.scores(raw=raw))[: given.top_k] for answer in answers]
        return Response(encode_answer(rows if is_batch else rows[0]), media_type="application/json")


def _check_targets(answers: Sequence[Answer]) -> None:
    """Check that every target is in its text, so that two texts are not taken for a text and a target.

    Raises:
        RequestError: 409 if one is not.
    """
    for number, answer in enumerate(answers):
        if answer.target_missing:
            fault = Fault(
                expected="pairs of a text and a target that it contains",
                found=f"pair {number}, which is none",
                remedy="send several texts as [[text], [text]]",
            )
            raise RequestError(409, fault)


def _sort_scores(scores: dict[str, float]) -> list[dict[str, object]]:
    ordered = sorted(scores.items(), key=lambda item: item[1], reverse=True)
    return [{"score": score, "label": label} for label, score in ordered]
