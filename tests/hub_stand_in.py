"""A local stand-in of the Hugging Face Hub's API: repositories are created, committed to and downloaded."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "c" * 40


class Hub(ThreadingHTTPServer):
    """The server; files of each repository by path, and the requests that it answered."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.private: dict[str, bool] = {}
        self.tokens: set[str | None] = set()

    @property
    def url(self) -> str:
        """Address to set as `HF_ENDPOINT`."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *_: Any) -> None:
        """Print nothing."""

    def _answer(self, content: Any = None, status: int = 200, raw: bytes | None = None) -> None:
        body = raw if raw is not None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if raw is not None:
            self.send_header("ETag", f'"{sha1(raw).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        """Create a repository, or commit files to it."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            request = json.loads(body)
            name = f"{request.get('organization') or 'owner'}/{request['name']}"
            self.server.files.setdefault(name, {})
            self.server.private[name] = request.get("visibility") == "private" or bool(request.get("private"))
            return self._answer({"url": f"{self.server.url}/{name}"})
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        name = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            return self._answer(
                {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[name][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return self._answer({"commitUrl": f"{self.server.url}/{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def do_GET(self) -> None:
        """Describe a repository, or send one of its files."""
        parts = self.path.split("?")[0].strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        files = self.server.files.get(name)
        if files is None:
            return self._answer({"error": "Repository not found"}, 404)
        if parts[0] == "api":
            if "tree" in parts:
                return self._answer(
                    [
                        {"type": "file", "path": path, "size": len(raw), "oid": sha1(raw).hexdigest()}
                        for path, raw in files.items()
                    ]
                )
            return self._answer({"id": name, "sha": COMMIT, "siblings": [{"rfilename": path} for path in files]})
        raw = files.get("/".join(parts[4:]))
        return self._answer({"error": "Entry not found"}, 404) if raw is None else self._answer(raw=raw)

    do_HEAD = do_GET  # noqa: N815 — the name that http.server looks for


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run the stand-in while the block runs."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
