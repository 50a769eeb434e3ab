"""The running service: the model that answers now, the queue before it, and the two changes in its life.

These are another model in its place, between two batches, and the end, after all that was taken in is answered.
Addresses are `moe.serve.app`'s.
"""

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
from moe.serve.model_loader import ModelLocation, ServedModel, load_served_model
from moe.serve.settings import ServeSettings

DRAIN_POLL_SECONDS = 0.02  # seconds between two looks at whether all is answered


class ModelManager:
    """One service. It lives in one event loop, from `start` to `close`.

    Args:
        settings: of it.
        place: where its model is read again.
        served: the model that was opened from there.
        begin: runs first in the model's thread.
    """

    def __init__(
        self, settings: ServeSettings, place: ModelLocation, served: ServedModel, begin: Callable[[], None] = lambda: None
    ) -> None:
        self.settings, self.place, self.served, self._begin = settings, place, served, begin
        self.metrics = Metrics(lambda: self.batcher.waiting if self.batcher else 0)
        self.batcher: Batcher | None = None
        self.draining = False
        self.swapped: list[Callable[[], None]] = []
        """Called after another model took over."""
        self._swapping = asyncio.Lock()

    def start(self) -> None:
        """Begin to answer."""
        wait = self.settings.max_wait_ms / 1000
        self.batcher = Batcher(self.served.engine, wait, self.settings.queue_texts, self.metrics.computed, self._begin)
        self.batcher.start()

    async def close(self) -> None:
        """End; what still waits is not answered."""
        if self.batcher:
            await self.batcher.close()

    @property
    def ready(self) -> bool:
        """Whether new work is taken."""
        return not self.draining and self.batcher is not None and self.batcher.alive

    def put(self, asked: Any, texts: int) -> asyncio.Future[Any]:
        """Queue what is asked.

        Raises:
            Refused: when the queue is full, or the service ends.
        """
        if not self.ready or self.batcher is None:
            gone = Fault("a service that takes work", "one that ends", "ask again later, or another one")
            raise RequestError(503, gone, {"Retry-After": "1", "Connection": "close"})
        return self.batcher.put(asked, texts)

    async def answer(self, asked: Any, texts: int) -> Any:
        """The result of what is asked.

        Raises:
            Refused: as `put`; or when it takes too long.
        """
        done = self.put(asked, texts)
        try:
            return await asyncio.wait_for(done, self.settings.timeout_s)
        except TimeoutError as error:
            raise self.too_slow() from error

    def too_slow(self) -> RequestError:
        """Why a request was given up."""
        limit = f"an answer within {self.settings.timeout_s:g} s"
        return RequestError(504, Fault(limit, "none yet", "send less in a request, or ask again later"))

    async def reload(self) -> dict[str, str]:
        """Read the model's place again, and let what is there answer from the next batch on.

        Raises:
            Refused: when it cannot be opened; the old one then goes on.
        """
        assert self.batcher is not None
        async with self._swapping:
            before = self.served.sha256
            try:
                new = await asyncio.to_thread(load_served_model, self.place)
                self._refuse_other_kind(new)
            except Exception as error:
                self.metrics.swaps.labels("refused").inc()
                log_event("reload refused", logging.ERROR, error, reason=str(error) if isinstance(error, Fault) else None)
                kept = error if isinstance(error, Fault) else Fault("a model that opens", "an error", "see the log")
                raise RequestError(409, kept) from error
            self.served = new
            self.batcher.engine = new.engine
            for tell in self.swapped:
                tell()
            self.metrics.swaps.labels("done").inc()
            log_event("reloaded", before=before, now=new.sha256)
            return {"before": before, "now": new.sha256}

    def _refuse_other_kind(self, new: ServedModel) -> None:
        now, then = self.served.told["answers"], new.told["answers"]
        if now != then:
            raise Fault(f"a model that answers with {now}", f"one that answers with {then}", "start another service")

    async def drain(self) -> None:
        """Take no new work; come back when all that was taken is answered, but not before a load balancer saw it."""
        self.draining = True
        assert self.batcher is not None
        log_event("draining", waiting=self.batcher.waiting)
        end = time.monotonic() + self.settings.drain_s
        while self.batcher.alive and not self.batcher.idle:
            await asyncio.sleep(DRAIN_POLL_SECONDS)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
