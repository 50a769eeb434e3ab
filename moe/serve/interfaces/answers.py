"""What the forms of other servers have in common: a fixed task, no silently truncated text, their common fields."""

from typing import Annotated, Any

from fastapi import Query
from pydantic import Field

from experts.errors import Fault
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.errors import RequestError
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
        RequestError: 422 if they differ.
    """
    if in_body is not None and in_query is not None and in_body != in_query:
        fault = Fault(f"the same {field} in the body and in the query string", "different ones", f"send {field} once")
        raise RequestError(422, fault)
    return in_query if in_body is None else in_body


async def classify(manager: ModelManager, model: str | None, request: ClassifyRequest) -> list[dict[str, Any]]:
    """Return the answers to a request, one for each pair of a text and a target.

    Raises:
        RequestError: 404 for an unknown model; as `ModelManager.run`.
    """
    content = await manager.run(request, len(request.pairs), manager.find(model))
    manager.metrics.count_results(row["experts"] for row in content["answers"])
    answers: list[dict[str, Any]] = content["answers"]
    return answers


def check_complete(answers: list[dict[str, Any]], option: str) -> None:
    """Check that every text was read completely.

    Args:
        option: of the request, with which a longer text is truncated.

    Raises:
        RequestError: 409 if a text was truncated.
    """
    for number, answer in enumerate(answers):
        if answer["truncated"]:
            found = f"text {number} of the request, which is longer"
            raise RequestError(409, Fault("texts that the model reads completely", found, f"shorten it, or {option}"))
