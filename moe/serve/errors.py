"""What is answered where no answer is given: a status, and in JSON what was expected, what was found, what to do.

When something is refused is told where it is; no text of a request comes back in a refusal.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from experts.errors import Fault, suggest

ERROR_TYPES = {
    401: "who_are_you",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    408: "too_slow",
    409: "not_with_this_model",
    413: "too_large",
    422: "not_understood",
    500: "our_fault",
    501: "not_installed",
    503: "busy",
    504: "too_slow",
}
UNION_ERROR_TYPES = ("string_type", "list_type")


class ErrorDetail(BaseModel):
    """Why a request was not answered."""

    message: str
    type: str
    expected: str
    found: str
    remedy: str


class ErrorResponse(BaseModel):
    """The body of every answer that is none."""

    error: ErrorDetail


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        fault: why.
        headers: sent with it.
    """

    def __init__(self, status: int, fault: Fault, headers: Mapping[str, str] = {}) -> None:
        super().__init__(str(fault))
        self.status, self.fault, self.headers = status, fault, dict(headers)


def check_known_name(kind: str, name: str | None, known: Sequence[str]) -> None:
    """Refuse a domain or a task that the model does not have.

    Raises:
        Refused: naming those that it has.
    """
    if name is not None and name not in known:
        raise RequestError(422, Fault(f"one of the {kind}s {', '.join(known)}", "another", suggest(name, known)))


def build_error_response(status: int, fault: Fault, headers: Mapping[str, str] = {}) -> Response:
    """A refusal as a response; in ASCII, since names that a client made up may stand in it."""
    error_responses = {"message": str(fault), "type": ERROR_TYPES.get(status, "error")}
    error_responses |= {"expected": fault.expected, "found": fault.found, "remedy": fault.remedy}
    return Response(json.dumps({"error": error_responses}), status, dict(headers), "application/json")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These statuses, as OpenAPI describes them."""
    return {status: {"model": ErrorResponse, "description": ERROR_TYPES[status].replace("_", " ")} for status in statuses}


def add_error_handlers(app: FastAPI) -> None:
    """Have the application answer so whatever goes wrong in it."""
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(RequestValidationError, _misread)
    app.add_exception_handler(HTTPException, _plain)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return build_error_response(error.status, error.fault, error.headers)


async def _misread(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = min(error.errors(), key=_far)
    names = [str(part) for part in first["loc"][1:]]
    place = ".".join(name[:40] for name in names if name.isidentifier() or name.isdigit()) or "the body"
    return build_error_response(422, Fault("a request as /openapi.json describes it", f"{place}: {first['msg']}", "mend it"))


def _far(error: Any) -> tuple[bool, int]:
    """How far an error is from what was meant: of `a text, or several` only one can have been."""
    return error["type"] in UNION_ERROR_TYPES, -len(error["loc"])


async def _plain(request: Request, error: Exception) -> Response:
    """What the framework refuses: an address or a method that there is not, a body that no JSON can be made of."""
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        return build_error_response(422, Fault("a body in JSON", "one that cannot be read as such", "mend it"))
    expected = {404: "an address that there is", 405: "a method that this address takes"}
    fault = Fault(expected.get(error.status_code, "another request"), error.detail.lower(), "see /openapi.json")
    return build_error_response(error.status_code, fault, error.headers or {})
