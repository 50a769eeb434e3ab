"""The server process: socket, signals and shutdown.

SIGTERM and Ctrl-C finish accepted requests and exit with code 0; a second one exits immediately. SIGHUP reloads the
model.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any

import torch
import uvicorn

from experts.errors import Fault
from moe.console import redirected_status
from moe.inference.load import LoadOptions
from moe.model.backbone_pool import BackbonePool
from moe.serve.app import build_app
from moe.serve.connections import LISTEN_BACKLOG, ConnectionLimits, ServiceConfig, find_connection_limits
from moe.serve.errors import RequestError
from moe.serve.hosted_model import HostedModel, ModelSource
from moe.serve.json_logs import configure_logging, log_event
from moe.serve.model_loader import load_served_model
from moe.serve.model_manager import ModelManager
from moe.serve.settings import ServeSettings, check_keys_required, check_load_folder

SWITCH_INTERVAL_SECONDS = 0.0005
"""Thread switch interval: Python's default of 5 ms would delay the event loop while the model computes."""


def serve(settings: ServeSettings, sources: Sequence[ModelSource], options: LoadOptions = LoadOptions()) -> None:
    """Serve models until a signal ends the process.

    Args:
        sources: the models, at least one. If the process may hold several, PyTorch predicts unless the runtime is
            set: it shares a backbone's weights between models, each graph has a copy.
        options: see `load_served_model`.

    Raises:
        Fault: if the address is in use or would be accessible without a key, the folder of models to load at run time
            is missing, or a model cannot be loaded.
    """
    check_keys_required(settings)
    check_load_folder(settings)
    if options.runtime == "auto" and (len(sources) > 1 or settings.load_folder):
        options = replace(options, runtime="torch")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # batches are tokenized one at a time; more threads slow torch down
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    configure_logging(settings.log_lines_per_s)
    with redirected_status(lambda text: log_event("status", text=text)), bind_socket(settings) as listener:
        if options.threads:
            torch.set_num_threads(options.threads)
        limits = find_connection_limits(settings)
        manager = load_manager(settings, sources, options)
        asyncio.run(_run(manager, limits, listener))


def load_manager(
    settings: ServeSettings, sources: Sequence[ModelSource], options: LoadOptions = LoadOptions()
) -> ModelManager:
    """Load the models of a service; models on the same backbone share its weights if PyTorch predicts.

    Args:
        sources: the models, at least one.

    Raises:
        Fault: if there are more than `max_models`, a model cannot be loaded, two have the same name, or one has other
            outputs than the first.
    """
    if len(sources) > settings.max_models:
        raise Fault(f"at most {settings.max_models} models", str(len(sources)), "raise max_models in the settings")
    load = partial(load_served_model, options=options, token_budget=settings.batch_tokens, backbones=BackbonePool())
    loaders = [partial(load, source.model) for source in sources]
    set_threads = partial(torch.set_num_threads, torch.get_num_threads())
    manager = ModelManager(settings, loaders[0], loaders[0](), set_threads, sources[0].name, load)
    for source, loader in list(zip(sources, loaders, strict=True))[1:]:
        manager.add(HostedModel(source.name, loader, loader()))
    return manager


def bind_socket(settings: ServeSettings) -> socket.socket:
    """Return a socket that is bound to the address but does not listen yet.

    The protocol is given as TCP explicitly, because only then does asyncio set TCP_NODELAY; without it, small responses
    are delayed by about 40 ms.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        address = f"{settings.host}:{settings.port}"
        reason = error.strerror or str(error)
        raise Fault(f"a free address to listen on, not {address}", reason, "choose another --port or --host") from error
    return listener


async def _run(manager: ModelManager, limits: ConnectionLimits, listener: socket.socket) -> None:
    server = Server(manager, limits)
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
    await server.serve(sockets=[listener])
    log_event("ended")


class Server(uvicorn.Server):
    """uvicorn server that drains before it shuts down."""

    def __init__(self, manager: ModelManager, limits: ConnectionLimits) -> None:
        self.manager = manager
        self._tasks: set[asyncio.Task[None]] = set()  # keeps references: the event loop itself holds only weak ones
        app = build_app(manager, limits.active_requests)
        super().__init__(ServiceConfig(app, manager.settings, manager.metrics, limits))

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening and log the address."""
        await super().startup(sockets)
        for listener in sockets or ():
            listener.listen(LISTEN_BACKLOG)  # asyncio listens with the number that it accepts at a time
            host, port = listener.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            served = self.manager.served
            names = list(self.manager.models)
            others: dict[str, Any] = {"models": names} if len(names) > 1 else {}
            log_event("serving", url=url, model=served.info["name"], sha256=served.sha256, **others)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain at the first signal, exit at the second; signals are not raised again, so the exit code is 0."""
        if self.manager.draining or not self.started:
            self.should_exit = self.force_exit = True
            return
        self.manager.draining = True
        asyncio.get_running_loop().call_soon_threadsafe(self._start_task, self._drain_and_exit())

    def reload(self) -> None:
        """Reload the models in the background."""
        self._start_task(self._reload())

    def _start_task(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _drain_and_exit(self) -> None:
        await self.manager.drain()
        self.should_exit = True

    async def _reload(self) -> None:
        for name in list(self.manager.models):
            with suppress(RequestError):  # the reason is in the log
                await self.manager.reload(name)
