"""Prediction of shards with Ray Data: one model per actor; the shards of a lost actor are predicted again."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from typing import TypeVar

from experts.errors import Fault
from moe.console import info
from moe.inference.bulk.shards import BulkJob, ShardCount, load_predictor, predict_shard
from moe.inference.load import has_gpu

Result = TypeVar("Result")


class ShardPredictor:
    """Ray actor that loads the model once and predicts shards.

    Args:
        job: the dataset, the model and the output folder.
        threads: of the actor.
    """

    def __init__(self, job: BulkJob, threads: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        self.job, self.predictor = job, load_predictor(job, threads)

    def __call__(self, batch: Mapping[str, Sequence[int]]) -> dict[str, list[object]]:
        """Predict the shard of a batch, which holds one; a shard that a lost actor started is started again."""
        (shard,) = batch["part"]
        return {name: [value] for name, value in asdict(predict_shard(self.job, self.predictor, int(shard))).items()}


def predict_shards_with_ray(
    job: BulkJob, todo: Sequence[int], workers: int, threads: int | None
) -> Iterator[ShardCount]:
    """Predict shards with `workers` actors; yields what was counted for each shard.

    Raises:
        Fault: one that an actor raised.
    """
    items = [{"part": shard} for shard in todo]
    return run_on_actors(ShardPredictor, (job,), items, workers, threads or 1, ShardCount)


def ray_is_installed() -> bool:
    """Whether Ray can be used; if not, a line says that one process does the work."""
    installed = find_spec("ray") is not None
    if not installed:
        info("Ray is not installed (pip install 'finmoe[ray]'): predicting in one process")
    return installed


def run_on_actors(
    actor: type,
    arguments: tuple[object, ...],
    items: Sequence[Mapping[str, object]],
    workers: int,
    threads: int,
    result: Callable[..., Result],
) -> Iterator[Result]:
    """Give items one by one to `workers` actors; yields what an actor returns for each item.

    Ray runs on this machine, or on the cluster at RAY_ADDRESS. A Ray session that is already running is used and left
    running. The items of a lost actor are given to another.

    Args:
        actor: a class whose instances are called with a batch of one item, see `ray.data.Dataset.map_batches`.
        arguments: of its constructor, to which the number of threads is added.
        items: what the actors are called with.
        workers: number of actors.
        threads: of each actor.
        result: makes a result of the columns that an actor returns, as keywords.

    Raises:
        Fault: one that an actor raised.
    """
    import ray  # optional dependency

    started_here = not ray.is_initialized()
    if started_here:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its messages are about Ray's internals
        cluster = "RAY_ADDRESS" in os.environ
        ray.init(
            num_cpus=None if cluster else workers * threads,
            include_dashboard=None if cluster else False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        blocks = ray.data.from_items([dict(item) for item in items], override_num_blocks=len(items))
        results = blocks.map_batches(
            actor,
            fn_constructor_args=(*arguments, threads),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=threads,
            num_gpus=1 if has_gpu() else None,
        )
        for row in results.iter_rows():
            yield result(**row)
    except ray.exceptions.RayTaskError as error:
        fault = next((cause for cause in _causes(error) if isinstance(cause, Fault)), None)
        if fault is None:
            raise
        raise fault from None
    finally:
        if started_here:
            ray.shutdown()


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = getattr(cause, "cause", None) or cause.__cause__
