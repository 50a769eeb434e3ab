"""A model of the service with its request queue, and the names under which requests ask for models."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.errors import Fault
from moe.serve.batching import Batcher
from moe.serve.model_loader import ServedModel
from moe.serve.settings import ServeSettings

IDLE_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class ModelSource:
    """A model to serve.

    Args:
        name: under which requests ask for it; None is the name of its folder.
        model: see `moe.runs.model_ref.resolve`.
    """

    name: str | None
    model: Path | None


def parse_sources(words: Sequence[str]) -> list[ModelSource]:
    """Parse the models on the command line, each as `MODEL` or `NAME=MODEL`; none stands for the default model.

    A model without a name is named by the last part of its path. A word that is an existing path is a model, whatever
    characters it contains.

    Raises:
        Fault: if two models have the same name, or a name is empty.
    """
    sources = [_parse_source(word) for word in words] or [ModelSource(None, None)]
    names = [source.name for source in sources]
    if repeated := next((name for name in names if names.count(name) > 1), None):
        raise Fault("models with different names", f"{repeated} twice", "give them names: moe serve NAME=MODEL …")
    return sources


def _parse_source(word: str) -> ModelSource:
    name, equals, model = word.partition("=")
    if not equals or Path(word).exists():
        return ModelSource(Path(word).resolve().name, Path(word))
    if not name or not model:
        raise Fault("a model as MODEL or NAME=MODEL", repr(word), "name the folder of a model")
    return ModelSource(name, Path(model))


class HostedModel:
    """A model and its request queue, which belongs to one event loop from `start` to `close`.

    Args:
        name: under which requests ask for it; None is the name of its folder.
        load: finds and loads the model, at every reload.
        served: the model that it has loaded.
        at_run_time: whether a request loaded it, so that a request may unload it.
    """

    def __init__(
        self, name: str | None, load: Callable[[], ServedModel], served: ServedModel, *, at_run_time: bool = False
    ) -> None:
        self.name = name or str(served.info["name"])
        self.load, self.served, self.at_run_time = load, served, at_run_time
        self.batcher: Batcher | None = None
        self.reload_lock = asyncio.Lock()

    def start(
        self, settings: ServeSettings, thread: ThreadPoolExecutor, on_batch: Callable[[int, float], None]
    ) -> None:
        """Start processing requests in the model's thread."""
        self.batcher = Batcher(
            self.served.engine,
            max_wait=settings.max_wait_ms / 1000,
            max_queued_texts=settings.queue_texts,
            on_batch=on_batch,
            thread=thread,
        )
        self.batcher.start()

    def swap(self, served: ServedModel) -> None:
        """Use another model from the next batch on."""
        self.served = served
        if self.batcher:
            self.batcher.engine = served.engine

    @property
    def alive(self) -> bool:
        """Whether requests are being processed."""
        return self.batcher is not None and self.batcher.alive

    @property
    def queued_texts(self) -> int:
        """Number of texts in the queue."""
        return self.batcher.queued_texts if self.batcher else 0

    def submit(self, request: Any, texts: int) -> asyncio.Future[Any]:
        """Queue a request; see `Batcher.submit`."""
        assert self.batcher is not None
        return self.batcher.submit(request, texts)

    async def finish(self) -> None:
        """Return when every accepted request is answered."""
        while self.batcher is not None and self.batcher.alive and not self.batcher.idle:
            await asyncio.sleep(IDLE_POLL_SECONDS)

    async def close(self) -> None:
        """Stop; queued requests get no response."""
        if self.batcher:
            await self.batcher.close()
