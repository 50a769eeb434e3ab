"""A fake OpenAI-compatible endpoint: a local server that responds by a function and records the requests."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from typing import Any

Reply = tuple[int, Any]
MODEL = "writer:1b"


def completion(content: str | None, finish: str = "stop") -> Reply:
    """A complete response as servers send it."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    body = {"id": "x", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
    return 200, body


def error_reply(status: int, message: str = "no") -> Reply:
    """An error response as servers send it."""
    return status, {"error": {"message": message, "type": "error"}}


def text_in(body: dict[str, Any]) -> str:
    """The text between the marks of a prompt."""
    match = re.fullmatch(r"<(text-[0-9a-f]+)>\n(.*)\n</\1>", body["messages"][-1]["content"], re.S)
    assert match, body
    return match[2]


def reordered(body: dict[str, Any], nth: int) -> str:
    """The text's words in another order, a different one for each request."""
    words = text_in(body).split()[::-1]
    return " ".join([*words[nth:], *words[:nth]])


def rewrite(body: dict[str, Any], nth: int) -> Reply:
    """The response of a well-behaved model."""
    return completion(reordered(body, nth))


class ModelServer:
    """Recorded requests, and the functions that respond to them.

    `reply` maps a request and its number for this text to a response, `respond` a request and its key.
    """

    def __init__(self) -> None:
        self.reply: Callable[[dict[str, Any], int], Reply] = rewrite
        self.respond: Callable[[dict[str, Any], str], Reply] = self.record
        self.requests: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.url = ""
        self._times: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def texts(self) -> list[str]:
        """The texts that were sent."""
        return [text_in(body) for body in self.requests]

    def record(self, body: dict[str, Any], key: str) -> Reply:
        """Record a request and reply to it."""
        with self._lock:
            text = text_in(body)
            nth, self._times[text] = self._times[text], self._times[text] + 1
            self.requests.append(body)
            self.keys.add(key)
        return (
            error_reply(404, f"model '{body['model']}' not found") if body["model"] != MODEL else self.reply(body, nth)
        )


@contextmanager
def serving() -> Iterator[ModelServer]:
    """Run a server on a free port of this machine within the block."""
    model = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send(*model.respond(body, self.headers["Authorization"]))

        def _send(self, status: int, body: Any) -> None:
            sent = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if sent.startswith(b"<") else "application/json")
            self.send_header("Content-Length", str(len(sent)))
            if status in (429, 503):
                self.send_header("retry-after-ms", "1")
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that disconnects is no error
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        model.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
        Thread(target=server.serve_forever, daemon=True).start()
        yield model
        server.shutdown()
