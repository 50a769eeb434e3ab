"""Error responses: a status code and a JSON body with the expected value, the value found and the remedy.

Error responses never contain a text of the request.
"""

import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Literal

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException as StarletteHTTPException

from experts.errors import Fault, suggest
from experts.json_io import json_object, parse_json
from moe.serve.json_logs import log_event

OpenAPIResponses = dict[int | str, dict[str, Any]]
"""Descriptions of responses by status, as FastAPI's routes take them."""

ERROR_TYPES = {
    400: "malformed",
    401: "who_are_you",
    403: "forbidden",
    404: "not_found",
    405: "not_allowed",
    408: "too_slow",
    409: "not_with_this_model",
    413: "too_large",
    415: "not_readable",
    422: "not_understood",
    431: "too_large",
    499: "client_gone",
    500: "our_fault",
    501: "not_installed",
    503: "busy",
    504: "too_slow",
}
ERROR_DESCRIPTIONS = {
    401: "Missing or unknown API key",
    403: "Request from another host name or origin",
    408: "Request body not received in time",
    404: "No such model, or it has no card",
    409: "Valid request that this model cannot fulfil",
    413: "Request body too large",
    415: "Compressed request body",
    422: "Invalid request",
    501: "Required package not installed",
    503: "Queue or connections full, or service shutting down",
    504: "No result in time",
}
TEI_PATH = "/predict"
TEI_ERROR_TYPES = {500: "Backend", 501: "Backend", 503: "Overloaded", 504: "Overloaded"}
"""Values of `error_type` in text-embeddings-inference by status; all others are `Validation`."""
UNION_ERROR_TYPES = ("string_type", "list_type")


class ErrorDetail(BaseModel):
    """Why a request failed."""

    message: str = Field(description="complete error message")
    type: str = Field(description="machine-readable category of the error")
    expected: str = Field(description="what would have been valid")
    found: str = Field(description="what was received instead")
    remedy: str = Field(description="what to do")
    code: str | None = Field(
        None, description="only present for an unknown model: `model_not_found`, as in OpenAI's API"
    )
    param: str | None = Field(None, description="only present with `code`: the field of the request")


class ErrorResponse(BaseModel):
    """Body of every error response."""

    error: ErrorDetail


class TextEmbeddingsError(BaseModel):
    """Body of an error response of `/predict`, as text-embeddings-inference sends it."""

    error: str = Field(description="complete error message")
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation", "Tokenizer"]


class RequestError(Exception):
    """A request that gets an error response.

    Args:
        status: HTTP status code.
        fault: the reason.
        headers: additional response headers.
        code, param: OpenAI's code of the error and the field that it is about, if clients read them.
    """

    def __init__(
        self,
        status: int,
        fault: Fault,
        headers: Mapping[str, str] = {},
        *,
        code: str | None = None,
        param: str | None = None,
    ) -> None:
        super().__init__(str(fault))
        self.status, self.fault, self.headers = status, fault, dict(headers)
        self.details = {name: value for name, value in (("code", code), ("param", param)) if value is not None}


def check_known_name(kind: str, name: str | None, known: Sequence[str]) -> None:
    """Check that the model has a domain or a task of this name; None passes.

    Raises:
        RequestError: 422 with the known names.
    """
    if name is not None and name not in known:
        raise RequestError(
            422, Fault(f"one of the {kind}s {', '.join(known)}", "an unknown name", suggest(name, known))
        )


def build_error_response(
    path: str, status: int, fault: Fault, headers: Mapping[str, str] = {}, details: Mapping[str, str] = {}
) -> Response:
    """Return a fault as a response; in ASCII, since it may contain field names that the client invented.

    Args:
        path: of the request; that of text-embeddings-inference has errors of its own form.
        details: `code` and `param` of an error in OpenAI's form.
    """
    detail = {"message": str(fault), "type": ERROR_TYPES.get(status, "error")}
    detail |= {"expected": fault.expected, "found": fault.found, "remedy": fault.remedy, **details}
    body: dict[str, Any] = {"error": detail}
    if path == TEI_PATH:
        body = {"error": str(fault), "error_type": TEI_ERROR_TYPES.get(status, "Validation")}
    return Response(json.dumps(body), status, dict(headers), "application/json")


def encode_answer(content: Any, *, ascii_only: bool = False) -> bytes:
    """Return a model's answer as JSON; a dataclass is an object of its fields.

    Args:
        ascii_only: escape other characters, some of which clients take for ends of lines.

    Raises:
        RequestError: 409 if a number in it is NaN or infinite, which is not JSON.
    """
    try:
        return json.dumps(
            content, ensure_ascii=ascii_only, allow_nan=False, separators=(",", ":"), default=json_object
        ).encode()
    except ValueError as error:
        log_event("answer not finite", logging.ERROR)
        raise unusable_answer("NaN or infinity") from error


def unusable_answer(found: str) -> RequestError:
    """Return the error of a request for which the model has no usable answer."""
    remedy = "send another text, or ask the operator to check the model with moe verify"
    return RequestError(409, Fault("an answer with finite numbers from this model", found, remedy))


def error_responses(*statuses: int, model: type[BaseModel] = ErrorResponse) -> OpenAPIResponses:
    """Return the OpenAPI descriptions of these error statuses."""
    return {status: {"model": model, "description": ERROR_DESCRIPTIONS[status]} for status in statuses}


class StrictRequest(Request):
    """A request whose body must be JSON as `parse_json` reads it."""

    async def json(self) -> Any:
        """Return the parsed body.

        Raises:
            HTTPException: 400 with the reason.
        """
        try:
            return parse_json(await self.body())
        except ValueError as error:
            raise HTTPException(400, str(error)) from error


class StrictRoute(APIRoute):
    """A route that reads a `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler of FastAPI for a strict request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly


def add_error_handlers(app: FastAPI) -> None:
    """Register handlers that return every error as an `ErrorResponse`."""
    app.add_exception_handler(RequestError, _handle_request_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)
    app.add_exception_handler(StarletteHTTPException, _handle_http_exception)


async def _handle_request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return build_error_response(request.url.path, error.status, error.fault, error.headers, error.details)


async def _handle_validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = min(error.errors(), key=_error_rank)
    names = [str(part) for part in first["loc"][1:]]
    field = ".".join(name[:40] for name in names if name.isidentifier() or name.isdigit()) or "the body"
    fault = Fault("a request that matches /openapi.json", f"{field}: {first['msg']}", "correct the request")
    return build_error_response(request.url.path, 422, fault)


def _error_rank(error: Any) -> tuple[bool, int]:
    """Sort key that prefers the union member the client meant: wrong-type errors last, deeper locations first."""
    return error["type"] in UNION_ERROR_TYPES, -len(error["loc"])


async def _handle_http_exception(request: Request, error: Exception) -> Response:
    """Convert errors of the framework: unknown path, unsupported method, body that is not JSON."""
    assert isinstance(error, StarletteHTTPException)
    if error.status_code == 400:  # of `StrictRequest`, or of FastAPI for a body that it cannot read
        return build_error_response(request.url.path, 422, Fault("a JSON body", error.detail, "send valid JSON"))
    expected = {404: "an existing path", 405: "a method that this path supports"}
    fault = Fault(expected.get(error.status_code, "a valid request"), error.detail.lower(), "see /openapi.json")
    return build_error_response(request.url.path, error.status_code, fault, error.headers or {})
