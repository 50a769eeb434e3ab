"""A service on tiny mixtures, in this process or as the real command."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from conftest import made_up_rows, save_backbone, tiny_run, write_csv
from mixtures import written
from starlette.testclient import TestClient

from moe.inference.abstention import RiskCoveragePoint
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.serve.app import build_app
from moe.serve.model_loader import ModelLocation, load_served_model
from moe.serve.model_manager import ModelManager
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent


def calibrated(place: Path) -> Path:
    """A tiny mixture's folder, whose news are calibrated."""
    for name in ("news", "forum"):
        write_csv(place / "data" / f"{name}.csv", made_up_rows(name))
    run = tiny_run(save_backbone(place / "bert"), place / "data")
    found = written(place / "mixture", load_backbone(run.backbone), Workspace(run, place / "run"))
    curve = (RiskCoveragePoint(threshold=0.0, rows=100, right=60), RiskCoveragePoint(threshold=0.5, rows=50, right=45))
    write_calibration(found, {"news": TaskCalibration(temperature=2.0, rows=100, curve=curve)})
    return found


@contextmanager
def client(folder: Path, **settings: object) -> Iterator[TestClient]:
    """One that asks a service of this process."""
    service = make_service(folder, **settings)
    with TestClient(build_app(service), base_url="http://localhost") as asking:
        yield asking


def make_service(folder: Path, **settings: object) -> ModelManager:
    """A service, not yet begun."""
    place = ModelLocation(folder)
    return ModelManager(ServeSettings.model_validate({"drain_s": 0.0} | settings), place, load_served_model(place))


@contextmanager
def listening(service: ModelManager) -> Iterator[str]:
    """The address of a service that listens at a free port, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(build_app(service), port=0, log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the service ended before it began"
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


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
