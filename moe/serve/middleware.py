"""The door: what is looked at before a request is read, and what stands on every answer and in the log.

It is plain ASGI, so that a body that is too large, or a stranger's, is never read to its end. What is asked is read in
`moe.serve.app`.
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
KEY_PROTECTED_PATHS = ("/v1/", "/metrics")
UNLOGGED_PATHS = ("/healthz", "/readyz", "/metrics")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
}


class AccessMiddleware:
    """Keys, limits of the body, and where a keyless service may be asked from.

    Args:
        app: what is behind the door.
        settings: keys and limits.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        self.hosts = {*LOCAL_HOSTS, settings.host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        try:
            self._let_in(scope, Headers(scope=scope))
            body = await self._body(Headers(scope=scope), receive)
        except RequestError as no:
            return await build_error_response(no.status, no.fault, no.headers)(scope, receive, send)
        return await self.app(scope, _again(body, receive), send)

    def _let_in(self, scope: Scope, headers: Headers) -> None:
        if not self.settings.keys:
            return self._refuse_strange_pages(headers)
        if scope["path"].startswith(KEY_PROTECTED_PATHS):
            kind, _, key = headers.get("authorization", "").partition(" ")
            owner = find_key_owner(key.strip(), self.settings.keys) if kind.lower() == "bearer" else None
            if owner is None:
                fault = Fault("Authorization: Bearer KEY, with a key of this service", "none", "send one")
                raise RequestError(401, fault, {"WWW-Authenticate": "Bearer"})
            scope["asked_by"] = owner
        return None

    def _refuse_strange_pages(self, headers: Headers) -> None:
        """Without keys, whoever sits at this machine may ask; a page of another site in their browser may not.

        Raises:
            Refused: for another name of this machine (DNS rebinding), or a page from elsewhere.
        """
        if _host(headers.get("host", "")) not in self.hosts:
            raise RequestError(403, Fault("a request to localhost", "another name of it", "ask localhost, or use keys"))
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != headers.get("host"):
            raise RequestError(403, Fault("a request from no page, or from one of this service", "another's", "use keys"))

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body.

        Raises:
            Refused: when it is too large or comes too slowly.
        """
        most, told = self.settings.max_body_bytes, headers.get("content-length", "")
        if told.isdigit() and int(told[:20]) > most:
            raise _too_large(most)
        parts, size = [], 0
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                while True:
                    message = await receive()
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise _too_large(most)
                    if not message.get("more_body"):
                        return b"".join(parts)
        except TimeoutError as error:
            slow = Fault(f"the whole body within {self.settings.timeout_s:g} s", "a part", "send it faster")
            raise RequestError(408, slow, {"Connection": "close"}) from error


def _too_large(most: int) -> RequestError:
    return RequestError(413, Fault(f"a body of at most {most:,} bytes", "more", "send fewer texts"), {"Connection": "close"})


def _host(header: str) -> str | None:
    try:
        return urlsplit(f"//{header}").hostname
    except ValueError:
        return None


def _again(body: bytes, receive: Receive) -> Receive:
    """A body that was read, to be read once more; then what the client does next."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def message() -> Message:
        return left.pop() if left else await receive()

    return message


class TelemetryMiddleware:
    """A number for each request, headers that keep browsers careful, a line in the log, and the metrics.

    Args:
        app: what is watched.
        metrics: moved on by every request.
        alive: tells whether connections may go on.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, alive: Callable[[], bool]) -> None:
        self.app, self.metrics, self.alive = app, metrics, alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            await self._watch(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _watch(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, number, seen = time.perf_counter(), uuid4().hex, {"status": 0}

        async def out(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
                self._dress(MutableHeaders(scope=message), number)
            await send(message)

        try:
            await self.app(scope, receive, out)
        except Exception as error:
            log_event("error", logging.ERROR, error, request=number)
            if not seen["status"]:
                fault = Fault("an answer", "an error of ours", f"tell whoever runs this: {number}")
                await build_error_response(500, fault)(scope, receive, out)
        self._note(scope, seen["status"] or 499, time.perf_counter() - start, number)

    def _dress(self, headers: MutableHeaders, number: str) -> None:
        for name, value in SECURITY_HEADERS.items():
            headers.setdefault(name, value)
        headers["X-Request-Id"] = number
        if not self.alive():
            headers["Connection"] = "close"

    def _note(self, scope: Scope, status: int, seconds: float, number: str) -> None:
        path = getattr(scope.get("route"), "path", "other")
        self.metrics.requests.labels(path, str(status)).inc()
        self.metrics.latency.labels(path).observe(seconds)
        if path in UNLOGGED_PATHS and status < 400:
            return
        fields: dict[str, Any] = {"path": path, "status": status, "ms": round(seconds * 1000, 1), "request": number}
        fields |= {"method": scope["method"]} if scope["method"] in ("GET", "POST") else {}
        fields |= {name: scope[name] for name in ("asked_by", "texts") if name in scope}
        log_event("request", **fields)
