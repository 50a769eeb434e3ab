"""The running service: its models, reloads between two batches, loading at run time, and graceful shutdown."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from experts.errors import Fault, suggest
from moe.serve.batching import Batcher
from moe.serve.errors import RequestError
from moe.serve.hosted_model import HostedModel
from moe.serve.json_logs import log_event
from moe.serve.metrics import Metrics
from moe.serve.model_loader import ServedModel, load_served_model
from moe.serve.settings import ServeSettings

OUTPUTS = {"labels": "labels", "language": "generated text"}


class ModelManager:
    """Serves one model or several, which compute in one thread. Belongs to one event loop from `start` to `close`.

    Args:
        load: finds and loads the first model, at every reload.
        served: the model that it has loaded.
        initializer: called first in the model's thread.
        name: under which requests ask for the first model; None is the name of its folder.
        load_from: loads another model at run time, from a folder.
    """

    def __init__(
        self,
        settings: ServeSettings,
        load: Callable[[], ServedModel],
        served: ServedModel,
        initializer: Callable[[], None] = lambda: None,
        name: str | None = None,
        load_from: Callable[[Path], ServedModel] = load_served_model,
    ) -> None:
        self.settings, self.load_from, self._initializer = settings, load_from, initializer
        self.default = HostedModel(name, load, served)
        self._models = {self.default.name: self.default}
        self.metrics = Metrics(lambda: sum(model.queued_texts for model in self._models.values()))
        self.draining = False
        self.on_change: list[Callable[[], None]] = []
        """Called after every reload, and after a model was loaded or unloaded."""
        self._thread: ThreadPoolExecutor | None = None
        self._models_lock = asyncio.Lock()

    @property
    def served(self) -> ServedModel:
        """The first model."""
        return self.default.served

    @served.setter
    def served(self, served: ServedModel) -> None:
        self.default.served = served

    @property
    def load(self) -> Callable[[], ServedModel]:
        """Finds and loads the first model."""
        return self.default.load

    @property
    def batcher(self) -> Batcher | None:
        """The request queue of the first model; None before `start`."""
        return self.default.batcher

    @property
    def models(self) -> Mapping[str, HostedModel]:
        """The models by name, the first of which answers requests that name none."""
        return self._models

    def add(self, model: HostedModel) -> None:
        """Serve another model.

        Raises:
            Fault: if it has the name of another model, or other outputs than the first one.
        """
        if model.name in self._models:
            remedy = "give them names: moe serve NAME=MODEL …"
            raise Fault("models with different names", f"{model.name} twice", remedy)
        check_same_output(self.served, model.served)
        self._models[model.name] = model
        if self._thread is not None:
            model.start(self.settings, self._thread, self.metrics.count_batch)
        self._notify()

    def find(self, name: str | None) -> HostedModel:
        """Return the model of a name; the first one for None.

        Raises:
            RequestError: 404 if there is no such model.
        """
        if name is None:
            return self.default
        if name not in self._models:
            known = list(self._models)
            fault = Fault(f"one of the models {', '.join(known)}", "an unknown name", suggest(name, known))
            raise RequestError(404, fault, code="model_not_found", param="model")
        return self._models[name]

    def start(self) -> None:
        """Start processing requests."""
        self._thread = ThreadPoolExecutor(1, "model", self._initializer)
        for model in self._models.values():
            model.start(self.settings, self._thread, self.metrics.count_batch)

    async def close(self) -> None:
        """Stop; queued requests get no response."""
        for model in self._models.values():
            await model.close()
        if self._thread is not None:
            self._thread.shutdown(wait=True)

    @property
    def ready(self) -> bool:
        """Whether new requests are accepted."""
        return not self.draining and all(model.alive for model in self._models.values())

    def submit(self, request: Any, texts: int, model: HostedModel | None = None) -> asyncio.Future[Any]:
        """Queue a request and return the future of its result.

        Args:
            request: of the type that the model's current engine takes.
            texts: number of texts that it counts as.
            model: the first one by default.

        Raises:
            RequestError: 503 if the queue is full or the service is shutting down.
        """
        self._check_running()
        return (model or self.default).submit(request, texts)

    def _check_running(self) -> None:
        if not self.ready:
            fault = Fault("a running service", "one that is shutting down", "retry later, or use another instance")
            raise RequestError(503, fault, {"Retry-After": "1", "Connection": "close"})

    async def run(self, request: Any, texts: int, model: HostedModel | None = None) -> Any:
        """Queue a request and return its result.

        Raises:
            RequestError: as `submit`; 504 if the result takes longer than `timeout_s`.
        """
        future = self.submit(request, texts, model)
        try:
            return await asyncio.wait_for(future, self.settings.timeout_s)
        except TimeoutError as error:
            raise self.timeout_error() from error

    def timeout_error(self) -> RequestError:
        """Return the error of a request that took longer than `timeout_s`."""
        limit = f"a result within {self.settings.timeout_s:g} s"
        return RequestError(504, Fault(limit, "none yet", "send less per request, or retry later"))

    async def reload(self, name: str | None = None) -> dict[str, str]:
        """Load a model again and use it from the next batch on; return both hashes.

        Raises:
            RequestError: 404 if there is no such model; 409 if it cannot be loaded: the current one stays in use.
        """
        model = self.find(name)
        async with model.reload_lock:
            before = model.served.sha256
            try:
                new = await self._load(model.load, "reload refused")
            except RequestError:
                self.metrics.reloads.labels("refused").inc()
                raise
            model.swap(new)
            self._notify()
            self.metrics.reloads.labels("done").inc()
            log_event("reloaded", before=before, now=new.sha256)
            return {"before": before, "now": new.sha256}

    async def _load(self, load: Callable[[], ServedModel], event: str) -> ServedModel:
        """Load a model in a thread and check it, while others are serving.

        Raises:
            RequestError: 409 if it cannot be loaded or served; the reason is in the log as `event`.
        """
        try:
            new = await asyncio.to_thread(load)
            check_same_output(self.served, new)
        except Exception as error:
            reason = str(error) if isinstance(error, Fault) else None
            log_event(event, logging.ERROR, error, reason=reason)
            internal = Fault("a model that can be loaded", "an internal error", "see the log of the service")
            raise RequestError(409, error if isinstance(error, Fault) else internal) from error
        return new

    async def load_model(self, name: str, folder: Path, *, replace: bool = False) -> HostedModel:
        """Load a model at run time; requests see it once it is verified, loaded and tested.

        Args:
            replace: replace a model of this name that was loaded at run time.

        Raises:
            RequestError: 409 if the name is taken, there are `max_models` models, or it cannot be loaded; 503 if the
                service is shutting down.
        """
        async with self._models_lock:
            self._check_running()
            current = self._models.get(name)
            self._check_free(name, current, replace)
            served = await self._load(lambda: self.load_from(folder), "load refused")
            self._check_running()
            model = HostedModel(name, lambda: self.load_from(folder), served, at_run_time=True)
            self._models.pop(name, None)
            self.add(model)
            log_event("loaded", model=name, sha256=served.sha256)
        if current is not None:
            await _retire(current)
            del current
            await asyncio.to_thread(gc.collect)  # a model's layers refer to each other in cycles
        return model

    def _check_free(self, name: str, current: HostedModel | None, replace: bool) -> None:
        if current is not None and not (replace and current.at_run_time):
            remedy = "unload it first, or set load_inplace" if current.at_run_time else "choose another name"
            raise RequestError(409, Fault("the name of no model that is served", f"{name!r}", remedy))
        if current is None and len(self._models) >= self.settings.max_models:
            limit = f"at most {self.settings.max_models} models (max_models)"
            raise RequestError(409, Fault(limit, "one more", "unload a model first"))

    async def unload_model(self, name: str) -> None:
        """Unload a model that was loaded at run time, and return when its requests are answered.

        Raises:
            RequestError: 404 if there is no such model; 409 if it was not loaded at run time.
        """
        model = self.find(name)
        if not model.at_run_time:
            fault = Fault("a model that was loaded at run time", "one of the command line", "restart without it")
            raise RequestError(409, fault)
        del self._models[name]
        self._notify()
        await _retire(model)
        del model
        await asyncio.to_thread(gc.collect)  # as above
        log_event("unloaded", model=name)

    def _notify(self) -> None:
        for callback in self.on_change:
            callback()

    async def drain(self) -> None:
        """Reject new requests and return once all accepted ones are done, after `drain_s` at the earliest."""
        self.draining = True
        log_event("draining", waiting=sum(model.queued_texts for model in self._models.values()))
        earliest = time.monotonic() + self.settings.drain_s
        for model in list(self._models.values()):
            await model.finish()
        await asyncio.sleep(max(0.0, earliest - time.monotonic()))


async def _retire(model: HostedModel) -> None:
    """Answer the requests that a model has accepted, then stop it."""
    await model.finish()
    await model.close()


def check_same_output(current: ServedModel, other: ServedModel) -> None:
    """Check that two models of a service have the same kind of output.

    Raises:
        Fault: if one classifies and the other generates text.
    """
    kinds = [OUTPUTS[model.info["answers"]] for model in (current, other)]
    if kinds[0] != kinds[1]:
        raise Fault(f"a model that outputs {kinds[0]}", f"one that outputs {kinds[1]}", "start a second service for it")
