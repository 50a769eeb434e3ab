"""A service on tiny mixtures, in this process or as the real command."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from moe.serve.app import make_app
from moe.serve.loading import Place, open_served
from moe.serve.service import Service
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent


@contextmanager
def client(folder: Path, **settings: object) -> Iterator[TestClient]:
    """One that asks a service of this process."""
    service = make_service(folder, **settings)
    with TestClient(make_app(service), base_url="http://localhost") as asking:
        yield asking


def make_service(folder: Path, **settings: object) -> Service:
    """A service, not yet begun."""
    place = Place(folder)
    return Service(ServeSettings.model_validate({"drain_s": 0.0} | settings), place, open_served(place))


class Running:
    """`moe serve` as a process: where it is asked, and its lines; in a file, since a full pipe would stop it."""

    def __init__(self, folder: Path, log: Path, *words: str) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), "serve", str(folder), "--port", "0", "--threads", "1", *words]
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stderr=stream, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while not log.read_text().endswith("\n") and self.process.poll() is None:
            time.sleep(0.05)
        self.url = self.lines()[0]["url"]

    def lines(self) -> list[dict[str, Any]]:
        """What it has written."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def end(self, sent: int = signal.SIGTERM) -> int:
        """Its exit code, once it is told to end."""
        self.process.send_signal(sent)
        return self.process.wait(60)


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Running]:
    """The real command on a free port; ended where the test has not."""
    with tempfile.TemporaryDirectory() as place:
        one = Running(folder, Path(place) / "log", *words)
        try:
            yield one
        finally:
            if one.process.poll() is None:
                one.process.kill()
                one.process.wait()
