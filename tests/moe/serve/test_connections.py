"""Tests of connections over sockets: their number, timeouts, malformed requests, and responses to unfinished ones."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from serving import build_manager, serve_in_thread, write_mixture

from experts.errors import Fault
from moe.serve.batching import Engine
from moe.serve.connections import ACCEPT_ROUNDS, RESERVED_DESCRIPTORS, ConnectionLimits, plan_connections
from moe.serve.model_manager import ModelManager

POST = b"POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
PREDICT = POST + b'Content-Length: 18\r\n\r\n{"texts": "rates"}'
CLOSE = b"Host: localhost\r\nConnection: close\r\n"
HEALTH = b"GET /healthz HTTP/1.1\r\n" + CLOSE + b"\r\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixture(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def manager(folder: Path) -> ModelManager:
    return build_manager(folder, header_timeout_s=0.3, body_pause_s=0.3, timeout_s=5, max_header_bytes=2048)


@pytest.fixture(scope="module")
def url(manager: ModelManager) -> Iterator[str]:
    with serve_in_thread(manager, ConnectionLimits(connections=12, accepts=4)) as url:
        yield url


def connect(url: str, sent: bytes = b"") -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), timeout=20)
    connection.sendall(sent)
    return connection


def read_to_end(connection: socket.socket) -> bytes:
    """Read until the service closes the connection."""
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def exchange(url: str, sent: bytes) -> bytes:
    with connect(url, sent) as connection:
        return read_to_end(connection)


def error_of(response: bytes) -> tuple[int, dict[str, Any]]:
    """Status and error of the last response, which must be complete, JSON, and announce the close."""
    head, _, body = response[response.rindex(b"HTTP/1.1 4") :].partition(b"\r\n\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n"))}
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert headers["connection"] == "close"
    assert headers["x-content-type-options"] == "nosniff"
    error = json.loads(body)["error"]
    assert error.keys() == {"message", "type", "expected", "found", "remedy"}
    return int(head.split()[1]), error


def test_connections_fit_into_the_descriptors() -> None:
    for descriptors in (96, 128, 256, 1024, 4096, 1_048_576):
        limits = plan_connections(None, descriptors, used=20)
        in_flight = limits.connections + ACCEPT_ROUNDS * limits.accepts
        assert in_flight + 20 + RESERVED_DESCRIPTORS <= descriptors
        assert limits.connections >= 8
        assert limits.active_requests < limits.connections <= 1024
    assert plan_connections(None, None, 20).connections == 1024
    assert plan_connections(5000, 10_000, 20).connections == 5000
    with pytest.raises(Fault, match="file descriptors for 8 connections; found a limit of 48"):
        plan_connections(None, 48, 20)
    with pytest.raises(Fault, match=r"for 900 connections.*or lower max_connections"):
        plan_connections(900, 900, 20)


MALFORMED = {
    "both lengths": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "bare LF": (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", 400),
    "obs-fold": (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /healthz\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"a" * 300, 400),
    "binary": (b"\x00\xff" * 1000, 400),
    "absolute": (b"GET http://localhost/healthz HTTP/1.1\r\n" + CLOSE + b"\r\n", 400),
    "long target": (b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\n" + CLOSE + b"\r\n", 431),
    "long header": (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 3000 + b"\r\n" + CLOSE + b"\r\n", 431),
    "many headers": (b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 5000 + CLOSE + b"\r\n", 431),
    "bad chunk": (CHUNKED + b"zz\r\n", 400),
    "chunks over the limit": (
        CHUNKED + b"ffff\r\n%b\r\n" % (b" " * 65535) * 40,
        413,
    ),
    "body over the limit": (POST + b"Content-Length: 5000000\r\n\r\n" + b" " * 5_000_000, 413),
    "a length of 20 digits": (POST + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n{}", 413),
    "compressed": (POST + b"Connection: close\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 415),
    "pipelined after a valid one": (HEALTH.replace(b"Connection: close\r\n", b"") + b"\x00\r\n\r\n", 400),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_gets_a_json_error_and_its_connection_is_closed(url: str, name: str) -> None:
    sent, status = MALFORMED[name]
    status_sent, error = error_of(exchange(url, sent))
    assert status_sent == status
    assert error["remedy"]


@pytest.mark.parametrize(
    "path",
    ["/page/../../etc/passwd", "/page/..%2f..%2fetc%2fpasswd", "/page/%00", "/%00", "/%ff", "/page/", "//healthz"],
)
def test_odd_path_is_not_found(url: str, path: str) -> None:
    head, _, body = exchange(url, f"GET {path} HTTP/1.1\r\n".encode() + CLOSE + b"\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert json.loads(body)["error"]["type"] == "not_found"


@pytest.mark.parametrize("method", ["TRACE", "DELETE", "get", "FROB", "OPTIONS"])
def test_other_method_is_not_allowed(url: str, method: str) -> None:
    response = exchange(url, f"{method} /healthz HTTP/1.1\r\n".encode() + CLOSE + b"\r\n")
    assert response.startswith(b"HTTP/1.1 405 ")
    assert b'"not_allowed"' in response


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"GET /healthz HTTP/1.1\r\nHost: loc", "a request line and headers within 0.3 s"),
        (POST + b"Content-Length: 100\r\n\r\n{", "a body without pauses of more than 0.3 s"),
        (CHUNKED + b"1\r\n{\r\n", "a body without pauses of more than 0.3 s"),
    ],
    ids=["headers", "body", "chunks"],
)
def test_client_that_stops_in_a_request_gets_408(url: str, sent: bytes, expected: str) -> None:
    status, error = error_of(exchange(url, sent))
    assert (status, error["expected"]) == (408, expected)


def test_dripped_headers_do_not_extend_the_timeout(url: str) -> None:
    with connect(url, HEALTH.replace(b"Connection: close\r\n", b"")) as connection:  # also for a second request
        while b'{"status":"ok"}' not in connection.recv(65536):
            pass
        status = b""
        for byte in b"GET /healthz HTTP/1.1\r\n" + b"X: a\r\n" * 1000:
            try:
                connection.sendall(bytes([byte]))
                connection.settimeout(0.05)
                if status := connection.recv(65536):
                    break
            except TimeoutError:
                continue
        assert status.startswith(b"HTTP/1.1 408 ")


def test_silent_connection_is_closed_without_a_response(url: str) -> None:
    assert exchange(url, b"") == b""


def test_incomplete_request_of_a_client_that_stops_sending_gets_400(url: str) -> None:
    for sent in (b"GET /healthz HTT", POST + b"Content-Length: 100\r\n\r\n{"):
        with connect(url, sent) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert error_of(read_to_end(connection))[0] == 400


def test_expectation_is_answered_before_the_body_unless_it_is_too_large(url: str) -> None:
    body = b'{"texts": "rates"}'
    expecting = POST + b"Connection: close\r\nExpect: 100-continue\r\n"
    with connect(url, expecting + b"Content-Length: %d\r\n\r\n" % len(body)) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert read_to_end(connection).startswith(b"HTTP/1.1 200 ")
    assert error_of(exchange(url, expecting + b"Content-Length: 9999999\r\n\r\n"))[0] == 413


def test_pipelined_requests_are_answered_in_order(url: str) -> None:
    first = HEALTH.replace(b"Connection: close\r\n", b"")
    response = exchange(url, first * 3 + b"GET /v1/model HTTP/1.1\r\n" + CLOSE + b"\r\n")
    assert re.findall(rb"HTTP/1.1 (\d+)", response) == [b"200"] * 4
    assert response.index(b'"kind"') > response.rindex(b'"ok"')


@pytest.mark.parametrize("sent", [b"", b"GET /", POST + b"Content-Length: 100\r\n\r\n{"], ids=["idle", "head", "body"])
def test_connections_that_wait_for_their_client_keep_nobody_out(url: str, manager: ModelManager, sent: bytes) -> None:
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connect(url, sent))
        for _ in range(5):
            assert exchange(url, HEALTH).startswith(b"HTTP/1.1 200 ")
        assert manager.metrics.closed.labels("idle")._value.get() > 0


class HeldEngine:
    """Answers one request at a time, once it may."""

    token_budget = 1

    def __init__(self, engine: Engine) -> None:
        self.engine, self.may_run = engine, threading.Event()

    def estimate_tokens(self, request: Any) -> int:
        return 1

    def run_batch(self, requests: Sequence[Any]) -> list[Any]:
        self.may_run.wait(30)
        return self.engine.run_batch(requests)


@pytest.fixture
def held(folder: Path) -> ModelManager:
    """Manager whose engine is held."""
    manager = build_manager(folder)
    manager.served = replace(manager.served, engine=HeldEngine(manager.served.engine))
    return manager


def release(manager: ModelManager) -> None:
    """Let the held engine run."""
    assert isinstance(manager.served.engine, HeldEngine)
    manager.served.engine.may_run.set()


def wait_for_queue(manager: ModelManager, texts: int) -> None:
    """Wait until one request is computed and so many texts are queued."""
    while not manager.batcher or not manager.batcher.in_flight or manager.batcher.queued_texts != texts:
        time.sleep(0.005)


def test_requests_in_work_leave_connections_for_health_checks(held: ModelManager) -> None:
    with serve_in_thread(held, ConnectionLimits(connections=8, accepts=4)) as url, ExitStack() as stack:
        working = [stack.enter_context(connect(url, PREDICT)) for _ in range(6)]
        wait_for_queue(held, 5)
        busy = httpx.get(f"{url}/v1/model")
        assert (busy.status_code, busy.headers["retry-after"], busy.json()["error"]["type"]) == (503, "1", "busy")
        assert httpx.get(f"{url}/healthz").status_code == 200
        release(held)
        for connection in working:
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_request_of_a_client_that_disconnects_leaves_the_queue(held: ModelManager) -> None:
    with serve_in_thread(held) as url:
        with connect(url, PREDICT) as first:
            wait_for_queue(held, 0)
            with connect(url, PREDICT):
                wait_for_queue(held, 1)
            wait_for_queue(held, 0)
            release(held)
            assert first.recv(65536).startswith(b"HTTP/1.1 200 ")
        metrics = httpx.get(f"{url}/metrics").text
    assert 'moe_requests_total{path="/v1/predict",status="499"} 1.0' in metrics
    assert "moe_batch_texts_sum 1.0" in metrics
