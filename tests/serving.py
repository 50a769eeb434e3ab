"""A service on tiny mixtures, in this process or as the real command."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """`moe serve` as a process: where it is asked, and its lines."""

    def __init__(self, folder: Path, *words: str) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), "serve", str(folder), "--port", "0", "--threads", "1", *words]
        surroundings = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=surroundings)
        assert self.process.stderr
        first = next(self.process.stderr)
        assert first.startswith("{"), first
        self.url = json.loads(first)["url"]

    def end(self, sent: int = signal.SIGTERM) -> tuple[int, str]:
        """Its exit code and what it wrote since."""
        self.process.send_signal(sent)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@contextmanager
def running(folder: Path, *words: str) -> Iterator[Running]:
    """The real command on a free port; ended where the test has not."""
    one = Running(folder, *words)
    try:
        yield one
    finally:
        if one.process.poll() is None:
            one.process.kill()
            one.process.communicate()
