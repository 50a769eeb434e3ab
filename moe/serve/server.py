"""The process that serves: its socket, its signals, and how it ends.

SIGTERM and Ctrl-C let it answer what it has taken and end with exit code 0; a second one ends it at once. SIGHUP reads
the model again.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import torch
import uvicorn

from experts.errors import Fault
from moe.serve.app import build_app
from moe.serve.errors import RequestError
from moe.serve.json_logs import log_event, configure_logging
from moe.serve.model_loader import ModelLocation, load_served_model
from moe.serve.model_manager import ModelManager
from moe.serve.settings import ServeSettings, check_keys_required

KEEP_ALIVE_SECONDS = 75  # seconds that a connection may rest; longer than most load balancers', so that these close it

SWITCH_INTERVAL_SECONDS = 0.0005  # seconds until the model's thread lets the event loop in; Python's own 5 ms are long beside a request


def serve(settings: ServeSettings, place: ModelLocation, threads: int | None = None) -> None:
    """Serve a model until told to end.

    Args:
        threads: cores that the model computes with; None leaves that to torch.

    Raises:
        Fault: when the address is taken or would be open to all, or the model cannot be opened.
    """
    check_keys_required(settings)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one batch at a time: threads of its own only get in torch's way
    sys.setswitchinterval(SWITCH_INTERVAL_SECONDS)
    with _bind_socket(settings) as listener:
        if threads:
            torch.set_num_threads(threads)
        served = load_served_model(place)
        configure_logging()
        service = ModelManager(settings, place, served, partial(torch.set_num_threads, torch.get_num_threads()))
        asyncio.run(_run(service, listener))


def _bind_socket(settings: ServeSettings) -> socket.socket:
    """A socket at the address, which does not listen yet.

    It says that it is TCP: only then does asyncio send small pieces at once, instead of some 40 ms later.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        place = f"{settings.host}:{settings.port}"
        raise Fault(f"an address to listen at, {place}", error.strerror or str(error), "name another --port") from error
    return listener


async def _run(service: ModelManager, listener: socket.socket) -> None:
    server = _Server(service)
    if hasattr(signal, "SIGHUP"):
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, server.reload)
    await server.serve(sockets=[listener])
    log_event("ended")


class _Server(uvicorn.Server):
    """uvicorn, which drains first."""

    def __init__(self, service: ModelManager) -> None:
        self.service = service
        self._tasks: set[asyncio.Task[None]] = set()
        super().__init__(
            uvicorn.Config(
                build_app(service),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=int(service.settings.timeout_s) + 1,
            )
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and tell where."""
        await super().startup(sockets)
        for one in sockets or ():
            host, port = one.getsockname()[:2]
            url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
            log_event("serving", url=url, model=self.service.served.told["name"], sha256=self.service.served.sha256)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end: drain, and at a second one do not wait. It is not raised again, so the exit code is 0."""
        if self.service.draining or not self.started:
            self.should_exit = self.force_exit = True
            return
        self.service.draining = True
        asyncio.get_running_loop().call_soon_threadsafe(self._begin, self._end())

    def reload(self) -> None:
        """A signal to read the model again."""
        self._begin(self._reload())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _end(self) -> None:
        await self.service.drain()
        self.should_exit = True

    async def _reload(self) -> None:
        with suppress(RequestError):  # the log tells why
            await self.service.reload()
