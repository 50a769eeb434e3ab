"""What the forms of other servers have in common: a fixed task, no silently truncated text, their common fields."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from experts.errors import Fault
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import RequestError
from moe.serve.hosted_model import HostedModel
from moe.serve.model_manager import ModelManager
from moe.serve.schemas import MAX_NAME, model_field

QueryName = Annotated[str | None, Query(max_length=MAX_NAME)]
"""A name in the query string, for clients whose request body is fixed."""


def common_fields() -> dict[str, tuple[Any, Any]]:
    """Return the fields that requests of all forms may have beside those of the other server."""
    task = "task to predict; by default the first one, or in a domain its first"
    domain = "use only the experts of this domain; by default the router decides"
    return {
        "model": model_field(),
        "task": (str | None, Field(None, description=task)),
        "domain": (str | None, Field(None, description=domain)),
    }


def choose_name(field: str, in_body: str | None, in_query: str | None) -> str | None:
    """Return a name that may be in the body or in the query string.

    Raises:
        RequestError: 409 if they differ.
    """
    if in_body is not None and in_query is not None and in_body != in_query:
        fault = Fault(f"the same {field} in the body and in the query string", "different ones", f"send {field} once")
        raise RequestError(409, fault)
    return in_query if in_body is None else in_body


@dataclass(frozen=True)
class Answer:
    """The answer to one text.

    Args:
        label: the most probable label.
        probabilities: by label, in the order of the task's labels.
        logits: by label, before calibration.
        tokens: number of tokens that were read.
        truncated: whether a part of the text was not read.
        target_missing: whether the text does not contain its target.
    """

    label: str
    probabilities: dict[str, float]
    logits: dict[str, float]
    tokens: int
    truncated: bool
    target_missing: bool

    def scores(self, *, raw: bool) -> dict[str, float]:
        """Return the logits, or the probabilities."""
        return self.logits if raw else self.probabilities


async def classify(manager: ModelManager, model: HostedModel, request: ClassifyRequest) -> list[Answer]:
    """Return the answers to a request that asks for details, one for each pair of a text and a target.

    Raises:
        RequestError: as `ModelManager.run`.
    """
    content = await manager.run(request, len(request.pairs), model)
    manager.metrics.count_results(row["experts"] for row in content["answers"])
    return [
        Answer(
            label=row["label"],
            probabilities=row["probabilities"],
            logits=row["logits"],
            tokens=row["tokens"],
            truncated=row["truncated"],
            target_missing=row.get("target_missing", False),
        )
        for row in content["answers"]
    ]


def check_complete(answers: Sequence[Answer], option: str) -> None:
    """Check that every text was read completely.

    Args:
        option: of the request, with which a longer text is truncated.

    Raises:
        RequestError: 409 if a text was truncated.
    """
    for number, answer in enumerate(answers):
        if answer.truncated:
            fault = Fault(
                expected="texts that the model reads completely",
                found=f"text {number} of the request, which is longer",
                remedy=f"shorten it, or {option}",
            )
            raise RequestError(409, fault)
