"""Services on tiny mixtures, in this process or as the `moe serve` command."""

import asyncio
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from conftest import made_up_rows, save_backbone, tiny_run, write_csv
from mixtures import save_random_mixture
from starlette.testclient import TestClient

from experts.atomic_io import write_manifest
from experts.safetensors_io import load_tensors, save_tensors
from moe.inference.abstention import RiskCoveragePoint
from moe.inference.calibration import LabelSets, TaskCalibration, write_calibration
from moe.inference.load import LoadOptions
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace
from moe.serve.app import build_app
from moe.serve.batching import Batcher
from moe.serve.connections import ConnectionLimits
from moe.serve.engine_classify import ClassifyEngine
from moe.serve.engine_explain import ExplainEngine
from moe.serve.hosted_model import ModelSource
from moe.serve.model_loader import load_served_model
from moe.serve.model_manager import ModelManager
from moe.serve.server import Server, bind_socket, load_manager
from moe.serve.settings import ServeSettings

ROOT = Path(__file__).parent.parent


def write_mixture(folder: Path, targets: bool = False) -> Path:
    """Write a tiny mixture with the domains news and forum, with `targets` also a task about entities."""
    for domain in ("news", "forum"):
        write_csv(folder / "data" / f"{domain}.csv", made_up_rows(domain))
    run = tiny_run(save_backbone(folder / "bert"), folder / "data")
    return save_random_mixture(
        folder / "mixture", load_backbone(run.backbone), Workspace(run, folder / "run"), targets=targets
    )


def write_calibrated_mixture(folder: Path) -> Path:
    """Write a tiny mixture whose task news is calibrated; return its folder."""
    mixture = write_mixture(folder)
    curve = (RiskCoveragePoint(threshold=0.0, rows=100, right=60), RiskCoveragePoint(threshold=0.5, rows=50, right=45))
    sets = LabelSets(level=0.9, rows=100, quantile=0.7)
    news = TaskCalibration(temperature=2.0, rows=100, curve=curve, label_sets=sets)
    write_calibration(mixture, {"news": news})
    return mixture


def copy_with_other_expert(folder: Path, target: Path, value: float = 0.0) -> Path:
    """Copy a mixture and set all weights of its expert `news` to `value`."""
    shutil.copytree(folder, target)
    path = target / "experts" / "news" / "adapter_model.safetensors"
    tensors = {name: torch.full_like(tensor, value) for name, tensor in load_tensors(path).items()}
    path.unlink()
    save_tensors(path, tensors, finite=False)
    write_manifest(target)
    return target


@contextmanager
def service_client(folder: Path, **settings: object) -> Iterator[TestClient]:
    """Client of a service in this process."""
    manager = build_manager(folder, **settings)
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        yield client


def build_manager(folder: Path, **settings: object) -> ModelManager:
    """Build the manager of a model that is not serving yet."""
    load = partial(load_served_model, folder)
    return ModelManager(ServeSettings.model_validate({"drain_s": 0.0} | settings), load, load())


@contextmanager
def client_of_several(models: Mapping[str, Path], **settings: object) -> Iterator[TestClient]:
    """Client of a service of several models by name, in this process."""
    sources = [ModelSource(name, folder) for name, folder in models.items()]
    manager = load_manager(
        ServeSettings.model_validate({"drain_s": 0.0} | settings), sources, LoadOptions(runtime="torch")
    )
    with TestClient(build_app(manager), base_url="http://localhost") as client:
        yield client


def running_batcher(manager: ModelManager) -> Batcher:
    """Return the request queue of a manager that is serving."""
    assert manager.batcher is not None
    return manager.batcher


def classifier(manager: ModelManager) -> ClassifyEngine:
    """Return the engine that classifies, of a manager whose model is a classifier."""
    assert isinstance(manager.served.engine, ExplainEngine)
    return manager.served.engine.classifier


def log_fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields that the service gives to a line of its log."""
    return cast(dict[str, Any], vars(record)["fields"])


@contextmanager
def serve_in_thread(
    manager: ModelManager, limits: ConnectionLimits = ConnectionLimits(connections=64, accepts=16)
) -> Iterator[str]:
    """Serve on a free port in a thread of this process; yields the URL."""
    server = Server(manager, limits)
    server.config.timeout_graceful_shutdown = 1
    with bind_socket(ServeSettings(port=0)) as listener:
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive(), "the server ended before it started listening"
                time.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


class ServeProcess:
    """`moe serve` as a process. Its log goes to a file, since a full pipe would block it."""

    def __init__(self, folder: Path, log: Path, *words: str, descriptors: int | None = None) -> None:
        command = [sys.executable, str(ROOT / "cli.py"), "serve", str(folder), "--port", "0", "--threads", "1", *words]
        if descriptors is not None:
            command = ["sh", "-c", f'ulimit -n {descriptors} && exec "$0" "$@"', *command]
        self.log = log
        with log.open("wb") as stream:
            self.process = subprocess.Popen(command, stderr=stream, env=os.environ | {"PYTHONPATH": str(ROOT)})
        while not log.read_text().endswith("\n") and self.process.poll() is None:
            time.sleep(0.05)
        self.url = self.log_lines()[0]["url"]

    def log_lines(self) -> list[dict[str, Any]]:
        """Return the log so far."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, sent: int = signal.SIGTERM) -> int:
        """Send a signal and return the exit code."""
        self.process.send_signal(sent)
        return self.process.wait(60)


@contextmanager
def serve_process(folder: Path, *words: str, descriptors: int | None = None) -> Iterator[ServeProcess]:
    """Run `moe serve` on a free port, with a limit of file descriptors; killed at the end if it still runs."""
    with tempfile.TemporaryDirectory() as log_folder:
        service = ServeProcess(folder, Path(log_folder) / "log", *words, descriptors=descriptors)
        try:
            yield service
        finally:
            if service.process.poll() is None:
                service.process.kill()
                service.process.wait()
