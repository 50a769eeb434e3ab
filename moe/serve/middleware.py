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
from moe.serve.errors import TEI_PATH, RequestError, build_error_response
from moe.serve.json_logs import log_event
from moe.serve.metrics import Metrics
from moe.serve.settings import ServeSettings

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
KEY_PROTECTED_PATHS = ("/v1/", "/card", "/metrics", TEI_PATH, "/classify")
HEALTH_PATHS = ("/healthz", "/readyz")
UNLOGGED_PATHS = (*HEALTH_PATHS, "/metrics")
IGNORED_HEADERS = (b"range", b"if-range")
"""Optional headers that only files support; their syntax errors would get a response in another format."""
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class AccessMiddleware:
    """Checks the API key, or host and origin of a service without keys, and limits the body and the active requests.

    A request whose client disconnects is cancelled, unless its response has begun.

    Args:
        app: the application behind this middleware.
        settings: keys and limits.
        max_active: requests answered at a time, apart from those for `HEALTH_PATHS`; None is without limit.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings, max_active: int | None = None) -> None:
        self.app, self.settings, self.max_active = app, settings, max_active
        self.hosts = {*LOCAL_HOSTS, settings.host}
        self.protected = (*KEY_PROTECTED_PATHS, *(["/openapi.json"] if settings.protect_openapi else []))
        self.active = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        try:
            self._check_access(scope, headers)
            self._check_body_headers(headers)
            body = await self._read_body(receive)
            self._check_active(scope)
        except RequestError as error:
            closing = {"Connection": "close"} if _has_body(headers) else {}
            response = build_error_response(scope["path"], error.status, error.fault, closing | error.headers)
            return await response(scope, receive, send)
        self.active += 1
        try:
            await _run_until_disconnect(self.app, scope, body, receive, send)
        finally:
            self.active -= 1
        return None

    def _check_active(self, scope: Scope) -> None:
        if self.max_active is not None and self.active >= self.max_active and scope["path"] not in HEALTH_PATHS:
            fault = Fault(f"at most {self.max_active} requests at a time", "more", "retry later")
            raise RequestError(503, fault, {"Retry-After": "1", "Connection": "close"})

    def _check_access(self, scope: Scope, headers: Headers) -> None:
        if not self.settings.keys:
            return self._check_host_and_origin(headers)
        if scope["path"].startswith(self.protected):
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
        if _hostname(headers.get("host", "")) not in self.hosts:
            fault = Fault("a request to localhost", "another host name", "use localhost, or configure API keys")
            raise RequestError(403, fault)
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != headers.get("host"):
            fault = Fault(
                "a request without an Origin header, or from this service's own page",
                "a request from another origin",
                "send it from a program, or configure API keys",
            )
            raise RequestError(403, fault)

    def _check_body_headers(self, headers: Headers) -> None:
        """Check what the headers say about the body.

        Raises:
            RequestError: 413 if it is too large, 415 if it is compressed.
        """
        declared = headers.get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > self.settings.max_body_bytes:
            raise _body_too_large(self.settings.max_body_bytes)
        if headers.get("content-encoding", "identity").strip().lower() != "identity":
            raise RequestError(415, Fault("a body without Content-Encoding", "an encoded one", "send it uncompressed"))

    async def _read_body(self, receive: Receive) -> bytes:
        """Return the complete body.

        Raises:
            RequestError: 413 if it is too large, 408 if it arrives too slowly, 499 if the client disconnects.
        """
        parts, size = [], 0
        end = asyncio.get_running_loop().time() + self.settings.timeout_s
        while True:
            message = await self._receive_part(receive, end)
            if message["type"] == "http.disconnect":
                raise RequestError(499, Fault("a complete body", "a part of it", "send all of it"))
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.settings.max_body_bytes:
                raise _body_too_large(self.settings.max_body_bytes)
            if not message.get("more_body"):
                return b"".join(parts)

    async def _receive_part(self, receive: Receive, end: float) -> Message:
        pause = asyncio.get_running_loop().time() + self.settings.body_pause_s
        try:
            async with asyncio.timeout_at(min(end, pause)):
                return await receive()
        except TimeoutError as error:
            if pause < end:
                limit = f"a body without pauses of more than {self.settings.body_pause_s:g} s"
            else:
                limit = f"the complete body within {self.settings.timeout_s:g} s"
            fault = Fault(limit, "a part of it", "send it faster")
            raise RequestError(408, fault, {"Connection": "close"}) from error


def _body_too_large(limit: int) -> RequestError:
    fault = Fault(f"a body of at most {limit:,} bytes", "a larger one", "send fewer texts per request")
    return RequestError(413, fault, {"Connection": "close"})


def _has_body(headers: Headers) -> bool:
    return headers.get("content-length", "0") != "0" or "transfer-encoding" in headers


def _hostname(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _netloc(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


async def _run_until_disconnect(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body that was already read; cancel it if the client disconnects before a response."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    disconnected, started = asyncio.Event(), False

    async def next_message() -> Message:
        if pending:
            return pending.pop()
        await disconnected.wait()
        return {"type": "http.disconnect"}

    async def send_response(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        disconnected.set()
        if not started:
            response.cancel()

    response = asyncio.ensure_future(app(scope, next_message, send_response))
    watcher = asyncio.create_task(watch())
    try:
        await response
    except asyncio.CancelledError:
        if not disconnected.is_set():  # the server itself cancels
            raise
    finally:
        watcher.cancel()


class TelemetryMiddleware:
    """Adds a request ID and security headers to every response, logs it and updates the metrics.

    HEAD is answered as GET without the body, for every path.

    Args:
        app: the application behind this middleware.
        keep_alive: returns whether connections may be reused.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keep_alive: Callable[[], bool]) -> None:
        self.app, self.metrics, self.keep_alive = app, metrics, keep_alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            headers = [(name, value) for name, value in scope["headers"] if name not in IGNORED_HEADERS]
            await self._handle({**scope, "headers": headers}, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, request_id, status = time.perf_counter(), uuid4().hex, 0
        method = scope["method"]
        if method == "HEAD":
            scope["method"] = "GET"

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                self._add_headers(MutableHeaders(scope=message), request_id)
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app(scope, receive, send_with_headers)
        except Exception as error:
            log_event("error", logging.ERROR, error, request=request_id)
            if not status:
                fault = Fault(
                    "a response", "an internal error", f"report request ID {request_id} to the operator of this service"
                )
                await build_error_response(scope["path"], 500, fault)(scope, receive, send_with_headers)
        scope["method"] = method
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
        fields |= {"method": scope["method"]} if scope["method"] in ("GET", "HEAD", "POST") else {}
        fields |= {name: scope[name] for name in ("asked_by", "texts") if name in scope}
        log_event("request", **fields)
