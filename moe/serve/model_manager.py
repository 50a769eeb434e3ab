"""The running service: the current model, its request queue, reloads between two batches, and graceful shutdown."""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from experts.errors import Fault
from moe.serve.batching import Batcher
from moe.serve.errors import RequestError
from moe.serve.json_logs import log_event
from moe.serve.metrics import Metrics
from moe.serve.model_loader import ServedModel
from moe.serve.settings import ServeSettings

DRAIN_POLL_SECONDS = 0.02


class ModelManager:
    """Serves one model at a time. Belongs to one event loop from `start` to `close`.

    Args:
        load: finds and loads the model, at every reload.
        served: the model that it has loaded.
        initializer: called first in the model's thread.
    """

    def __init__(
        self,
        settings: ServeSettings,
        load: Callable[[], ServedModel],
        served: ServedModel,
        initializer: Callable[[], None] = lambda: None,
    ) -> None:
        self.settings, self.load, self.served, self._initializer = settings, load, served, initializer
        self.metrics = Metrics(lambda: self.batcher.queued_texts if self.batcher else 0)
        self.batcher: Batcher | None = None
        self.draining = False
        self.on_reload: list[Callable[[], None]] = []
        """Called after every successful reload."""
        self._reload_lock = asyncio.Lock()

    def start(self) -> None:
        """Start processing requests."""
        self.batcher = Batcher(
            self.served.engine,
            max_wait=self.settings.max_wait_ms / 1000,
            max_queued_texts=self.settings.queue_texts,
            on_batch=self.metrics.count_batch,
            initializer=self._initializer,
        )
        self.batcher.start()

    async def close(self) -> None:
        """Stop; queued requests get no response."""
        if self.batcher:
            await self.batcher.close()

    @property
    def ready(self) -> bool:
        """Whether new requests are accepted."""
        return not self.draining and self.batcher is not None and self.batcher.alive

    def submit(self, request: Any, texts: int) -> asyncio.Future[Any]:
        """Queue a request and return the future of its result.

        Args:
            request: of the type that the current engine takes.
            texts: number of texts that it counts as.

        Raises:
            RequestError: 503 if the queue is full or the service is shutting down.
        """
        if not self.ready or self.batcher is None:
            fault = Fault("a running service", "one that is shutting down", "retry later, or use another instance")
            raise RequestError(503, fault, {"Retry-After": "1", "Connection": "close"})
        return self.batcher.submit(request, texts)

    async def run(self, request: Any, texts: int) -> Any:
        """Queue a request and return its result.

        Raises:
            RequestError: as `submit`; 504 if the result takes longer than `timeout_s`.
        """
        future = self.submit(request, texts)
        try:
            return await asyncio.wait_for(future, self.settings.timeout_s)
        except TimeoutError as error:
            raise self.timeout_error() from error

    def timeout_error(self) -> RequestError:
        """Return the error of a request that took longer than `timeout_s`."""
        limit = f"a result within {self.settings.timeout_s:g} s"
        return RequestError(504, Fault(limit, "none yet", "send less per request, or retry later"))

    async def reload(self) -> dict[str, str]:
        """Load the model again and use it from the next batch on; return both hashes.

        Raises:
            RequestError: 409 if it cannot be loaded; the current model stays in use.
        """
        assert self.batcher is not None
        async with self._reload_lock:
            before = self.served.sha256
            try:
                new = await asyncio.to_thread(self.load)
                self._check_same_output(new)
            except Exception as error:
                self.metrics.reloads.labels("refused").inc()
                reason = str(error) if isinstance(error, Fault) else None
                log_event("reload refused", logging.ERROR, error, reason=reason)
                internal = Fault("a model that can be loaded", "an internal error", "see the log of the service")
                raise RequestError(409, error if isinstance(error, Fault) else internal) from error
            self.served = new
            self.batcher.engine = new.engine
            for callback in self.on_reload:
                callback()
            self.metrics.reloads.labels("done").inc()
            log_event("reloaded", before=before, now=new.sha256)
            return {"before": before, "now": new.sha256}

    def _check_same_output(self, new: ServedModel) -> None:
        outputs = {"labels": "labels", "language": "generated text"}
        current, other = outputs[self.served.info["answers"]], outputs[new.info["answers"]]
        if current != other:
            raise Fault(f"a model that outputs {current}", f"one that outputs {other}", "start a second service for it")

    async def drain(self) -> None:
        """Reject new requests and return once all accepted ones are done, after `drain_s` at the earliest."""
        self.draining = True
        assert self.batcher is not None
        log_event("draining", waiting=self.batcher.queued_texts)
        earliest = time.monotonic() + self.settings.drain_s
        while self.batcher.alive and not self.batcher.idle:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        await asyncio.sleep(max(0.0, earliest - time.monotonic()))
