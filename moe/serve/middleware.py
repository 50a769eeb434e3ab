"""ASGI middleware: access control and body limits before a request is parsed; headers, logging and metrics after it.

Plain ASGI rather than Starlette's base class, so that a body that is too large or unauthorized is not read to its
end.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from experts.errors import Fault
from moe.serve.auth import find_key_owner
from moe.serve.errors import RequestError, build_error_response
from moe.serve.json_logs import log_event
from moe.serve.metrics import Metrics
from moe.serve.settings import ServeSettings

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
KEY_PROTECTED_PATHS = ("/v1/", "/card", "/metrics")
UNLOGGED_PATHS = ("/healthz", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class AccessMiddleware:
    """Checks the API key, or host and origin of a service without keys, and limits the body.

    Args:
        app: the application behind this middleware.
        settings: keys and limits.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        self.hosts = {*LOCAL_HOSTS, settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._check_access(scope, Headers(scope=scope))
            body = await self._read_body(Headers(scope=scope), receive)
        except RequestError as error:
            return await build_error_response(error.status, error.fault, error.headers)(scope, receive, send)
        return await self.app(scope, _replay_body(body, receive), send)

    def _check_access(self, scope: Scope, headers: Headers) -> None:
        if not self.settings.keys:
            return self._check_host_and_origin(headers)
        if scope["path"].startswith(KEY_PROTECTED_PATHS):
            scheme, _, key = headers.get("authorization", "").partition(" ")
            owner = find_key_owner(key.strip(), self.settings.keys) if scheme.lower() == "bearer" else None
            if owner is None:
                fault = Fault(
                    "the header Authorization: Bearer KEY with an API key of this service",
                    "no key or an unknown one",
                    "send a valid key",
                )
                raise RequestError(401, fault, {"WWW-Authenticate": "Bearer"})
            scope["asked_by"] = owner
        return None

    def _check_host_and_origin(self, headers: Headers) -> None:
        """Without keys, serve programs on this machine, but no web page of another site open in a browser here.

        Raises:
            RequestError: 403 for another host name (DNS rebinding) or a page of another origin.
        """
        if _host(headers.get("host", "")) not in self.hosts:
            fault = Fault("a request to localhost", "another host name", "use localhost, or configure API keys")
            raise RequestError(403, fault)
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            fault = Fault(
                "a request without an Origin header, or from this service's own page",
                "a request from another origin",
                "send it from a program, or configure API keys",
            )
            raise RequestError(403, fault)

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes:
        """Return the complete body.

        Raises:
            RequestError: 413 if it is too large, 408 if it arrives too slowly.
        """
        limit, declared = self.settings.max_body_bytes, headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > limit:
            raise _body_too_large(limit)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                while True:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise _body_too_large(limit)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            fault = Fault(f"the complete body within {self.settings.timeout_s:g} s", "a part of it", "send it faster")
            raise RequestError(408, fault, {"Connection": "close"}) from error


def _body_too_large(limit: int) -> RequestError:
    fault = Fault(f"a body of at most {limit:,} bytes", "a larger one", "send fewer texts per request")
    return RequestError(413, fault, {"Connection": "close"})


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _replay_body(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that first yields a body that was already read, then whatever the client sends."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def message() -> Message:
        return pending.pop() if pending else await receive()

    return message


class TelemetryMiddleware:
    """Adds a request ID and security headers to every response, logs it and updates the metrics.

    Args:
        app: the application behind this middleware.
        keep_alive: returns whether connections may be reused.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keep_alive: Callable[[], bool]) -> None:
        self.app, self.metrics, self.keep_alive = app, metrics, keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            await self._handle(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, request_id, status = time.perf_counter(), uuid4().hex, 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), request_id)
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            log_event("error", logging.ERROR, error, request=request_id)
            if not status:
                fault = Fault(
                    "a response", "an internal error", f"report request ID {request_id} to the operator of this service"
                )
                await build_error_response(500, fault)(scope, receive, send_with_headers)
        self._log(scope, status or 499, time.perf_counter() - start, request_id)

    def _add_headers(self, headers: MutableHeaders, request_id: str) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = request_id
        if not self.keep_alive():
            headers["Connection"] = "close"

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        path = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.latency.labels(path).observe(seconds)
        if path in UNLOGGED_PATHS and status < 400:
            return
        fields: dict[str, Any] = {"path": path, "status": status, "ms": round(seconds * 1000, 1), "request": request_id}
        fields |= {"method": scope["method"]} if scope["method"] in ("GET", "POST") else {}
        fields |= {name: scope[name] for name in ("asked_by", "texts") if name in scope}
        log_event("request", **fields)
