"""Connections of the service: how many there may be, and uvicorn's protocol with timeouts and JSON errors.

uvicorn's `limit_concurrency` takes effect once a request's headers are read, so it does not limit idle connections;
its only timeout is the one between two requests.
"""

import asyncio
import sys
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from experts.errors import Fault
from moe.serve.errors import build_error_response
from moe.serve.http_parser import StrictConnection
from moe.serve.json_logs import log_event
from moe.serve.metrics import Metrics
from moe.serve.middleware import SECURITY_HEADERS
from moe.serve.settings import ServeSettings

if sys.platform != "win32":
    import resource

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than at most load balancers, so that these close it first."""
LINGER_SECONDS = 5.0
"""How long the rest of a request is read and dropped after its response: closing at once could destroy the response."""
DEFAULT_CONNECTIONS = 1024
RESERVED_DESCRIPTORS = 32
"""File descriptors for the model's files during a reload, and for files of the page."""
MIN_CONNECTIONS = 8
MAX_ACCEPTS = 128
ACCEPT_ROUNDS = 4
"""Rounds of the event loop between accepting a connection and closing it because there are too many."""
LISTEN_BACKLOG = 1024
"""Connections that the system queues."""


@dataclass(frozen=True)
class ConnectionLimits:
    """Limits that keep the process within its file descriptors.

    Args:
        connections: open connections.
        accepts: connections accepted in one round of the event loop.
    """

    connections: int
    accepts: int

    @property
    def active_requests(self) -> int:
        """Requests answered at a time; the other connections are left for health checks."""
        return self.connections - max(2, self.connections // 10)


def plan_connections(wanted: int | None, descriptors: int | None, used: int) -> ConnectionLimits:
    """Return limits that leave descriptors for files.

    Args:
        wanted: connections that the settings ask for; None for the default, fewer if the descriptors do not suffice.
        descriptors: file descriptors that the process may have; None if there is no limit.
        used: descriptors that it has now.

    Raises:
        Fault: if there are too few descriptors.
    """
    if descriptors is None:
        return ConnectionLimits(wanted or DEFAULT_CONNECTIONS, MAX_ACCEPTS)
    free = descriptors - used - RESERVED_DESCRIPTORS
    accepts = max(1, min(MAX_ACCEPTS, free // 16))
    possible = free - ACCEPT_ROUNDS * accepts
    if possible < (wanted or MIN_CONNECTIONS):
        needed = (wanted or MIN_CONNECTIONS) + descriptors - possible
        raise Fault(
            f"at least {needed} file descriptors for {wanted or MIN_CONNECTIONS} connections",
            f"a limit of {descriptors}",
            "raise it (ulimit -n, or LimitNOFILE= of a systemd unit)" + (" or lower max_connections" if wanted else ""),
        )
    return ConnectionLimits(wanted or min(DEFAULT_CONNECTIONS, possible), accepts)


def find_connection_limits(settings: ServeSettings) -> ConnectionLimits:
    """Return the limits for this process; call it after the model is loaded, whose files need descriptors.

    Raises:
        Fault: if it may have too few file descriptors.
    """
    descriptors, used = None, 0
    if sys.platform != "win32":
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        descriptors = None if soft == resource.RLIM_INFINITY else soft
        used = sum(1 for _ in Path("/dev/fd").iterdir())
    return plan_connections(settings.max_connections, descriptors, used)


class ServiceConfig(uvicorn.Config):
    """Options of the server: uvicorn's, and what `ServiceProtocol` needs."""

    def __init__(
        self, app: ASGIApp, settings: ServeSettings, metrics: Metrics, limits: ConnectionLimits, **options: Any
    ) -> None:
        super().__init__(
            app,
            http=ServiceProtocol,
            ws="none",
            lifespan="on",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=limits.accepts,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=int(settings.timeout_s) + 1,
            **options,
        )
        self.settings, self.metrics, self.limits = settings, metrics, limits


class ServiceProtocol(H11Protocol):
    """A connection.

    It is refused if there are too many; it must send its request in time; a request that is malformed gets an
    `ErrorResponse`. If there are too many connections, one is closed whose client has not sent a complete request:
    those without a request before come first, then those whose last bytes are oldest. So idle connections keep nobody
    out.
    """

    config: ServiceConfig
    conn: StrictConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.settings = self.config.settings
        self.conn = StrictConnection(self.settings.max_header_bytes)
        self.received_at = self.loop.time()
        """When its last bytes arrived."""
        self.aborted = False
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._linger_timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether the service waits for this client: it has no request, or has not received all of it."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    @property
    def unread(self) -> bool:
        """Whether the client may still be sending a request that has its response."""
        return self.conn.their_state in (h11.SEND_BODY, h11.ERROR) or bool(self.conn.trailing_data[0])

    # asyncio's events

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit or refuse a new connection."""
        lingering = _LingeringTransport(cast(asyncio.Transport, transport), self)
        super().connection_made(cast(asyncio.Transport, lingering))
        self.config.metrics.connections.inc()
        if self._make_room():
            self._watch_head()
        else:
            self.aborted = True
            self.config.metrics.closed.labels("refused").inc()
            self.refuse(503, Fault("a free connection", f"{self.config.limits.connections} in use", "retry later"))

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client; drop those that come after a response that closes the connection."""
        self.received_at = self.loop.time()
        if self.transport.is_closing():
            return
        super().data_received(data)
        self._watch_head()

    def eof_received(self) -> None:
        """Answer an incomplete request."""
        if self.cycle is not None and not self.cycle.response_complete:
            incomplete = self.cycle.more_body and not self.cycle.response_started
        else:
            incomplete = bool(self.conn.trailing_data[0])
        if incomplete and not self.transport.is_closing():
            self.refuse(400, Fault("a complete request", "a part of one", "send all of it before closing"))

    def connection_lost(self, exc: Exception | None) -> None:
        """Release everything."""
        self._stop_head_timer()
        for timer in (self._write_timer, self._linger_timer):
            if timer is not None:
                timer.cancel()
        self.config.metrics.connections.dec()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def pause_writing(self) -> None:
        """Bound the time in which the client takes a response that is larger than the buffers."""
        super().pause_writing()
        self._write_timer = self.loop.call_later(self.settings.timeout_s, partial(self.abort, "slow reader"))

    def resume_writing(self) -> None:
        """Continue to send."""
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()

    # uvicorn's events

    def send_400_response(self, msg: str) -> None:
        """Answer a malformed request."""
        assert self.conn.error is not None
        self.refuse(self.conn.error.error_status_hint, self.conn.error.fault)

    def on_response_complete(self) -> None:
        """Close the connection if the client is still sending the request."""
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.transport.close()
        super().on_response_complete()
        self._watch_head()

    def shutdown(self) -> None:
        """Close at the end of the process."""
        if self.transport.is_closing():
            self.abort("shutdown")
        else:
            super().shutdown()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection that is idle between two requests."""
        if not self.transport.is_closing():
            super().timeout_keep_alive_handler()

    # what this class adds

    def refuse(self, status: int, fault: Fault) -> None:
        """Send an error response outside the application, unless a response has begun, and close the connection."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._send_error(status, fault)
        self.transport.close()

    def _send_error(self, status: int, fault: Fault) -> None:
        request_id = uuid4().hex
        headers = {"Connection": "close", "X-Request-Id": request_id} | SECURITY_HEADERS
        headers |= {"Retry-After": "1"} if status == 503 else {}
        response = build_error_response("", status, fault, headers)
        raw = [*self.server_state.default_headers, *response.raw_headers]
        for event in (
            h11.Response(status_code=status, headers=raw, reason=HTTPStatus(status).phrase.encode()),
            h11.Data(data=bytes(response.body)),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.config.metrics.requests.labels("other", str(status)).inc()
        log_event("request", path="other", status=status, found=fault.found, request=request_id)

    def abort(self, reason: str) -> None:
        """Close the connection at once."""
        self.aborted = True
        self.config.metrics.closed.labels(reason).inc()
        self.transport.abort()

    def linger(self) -> None:
        """Read and drop the rest of a request whose response was sent."""
        self._stop_head_timer()
        self.transport.resume_reading()
        with suppress(OSError):  # the client has closed already
            self.transport.write_eof()
        self.close_later()

    def close_later(self) -> None:
        """Close the connection even if the client neither takes the response nor closes."""
        if self._linger_timer is None:
            self._linger_timer = self.loop.call_later(LINGER_SECONDS, partial(self.abort, "linger"))

    def _make_room(self) -> bool:
        """Return whether the connection can stay; closes one that waits for its client if there are too many."""
        limit = self.config.limits.connections
        if len(self.connections) <= limit:
            return True
        connections = cast(set[ServiceProtocol], self.connections)
        others = [other for other in connections if other is not self and not other.aborted]
        if len(others) < limit:
            return True
        candidates = [other for other in others if other.waiting or other.transport.is_closing()]
        if not candidates:
            return False
        min(candidates, key=lambda other: (other.cycle is not None, other.received_at)).abort("idle")
        return True

    def _watch_head(self) -> None:
        """Start the timer of a head at its first byte, of the first one at once; stop it when the head is complete."""
        if self.transport.is_closing() or self.conn.their_state is not h11.IDLE:
            self._stop_head_timer()
        elif self._head_timer is None and (self.cycle is None or self.conn.trailing_data[0]):
            self._head_timer = self.loop.call_later(self.settings.header_timeout_s, self._handle_head_timeout)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _handle_head_timeout(self) -> None:
        if self.transport.is_closing():
            return
        self.config.metrics.closed.labels("header timeout").inc()
        if self.conn.trailing_data[0]:
            limit = f"a request line and headers within {self.settings.header_timeout_s:g} s"
            self.refuse(408, Fault(limit, "a part of them", "send them faster"))
        else:
            self.transport.close()


class _LingeringTransport:
    """asyncio's transport, whose `close` lets the client finish its request and read the response."""

    def __init__(self, transport: asyncio.Transport, protocol: ServiceProtocol) -> None:
        self._transport, self._protocol, self._closing = transport, protocol, False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether the connection takes no more requests."""
        return self._closing or self._transport.is_closing()

    def close(self) -> None:
        """Send what is in the buffer, and close."""
        if self.is_closing():
            return
        if self._protocol.unread:
            self._closing = True
            self._protocol.linger()
        else:
            self.close_now()
            self._protocol.close_later()

    def close_now(self) -> None:
        """Send what is in the buffer, and close without reading more."""
        self._closing = True
        self._transport.close()
