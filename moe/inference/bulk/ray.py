"""Parts of a dataset worked off by Ray Data: a model an actor, as many parts under way as they take, lost ones anew.

What a part is, and how it is answered and written, is `moe.inference.bulk.shards`'.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from experts.errors import Fault
from moe.inference.bulk.shards import BulkJob, predict_shard, load_predictor


class ShardPredictor:
    """An actor: opens the model once, then answers parts.

    Args:
        bulk: the dataset.
        threads: of the actor.
    """

    def __init__(self, bulk: BulkJob, threads: int) -> None:
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        torch.set_num_threads(threads)
        self.bulk, self.predictor = bulk, load_predictor(bulk)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[int]]:
        """Answer the parts of a batch, which holds one; a part that a lost actor began is begun anew."""
        return {"rows": [predict_shard(self.bulk, self.predictor, int(part)) for part in batch["part"]]}


def predict_shards_with_ray(bulk: BulkJob, todo: Sequence[int], workers: int, threads: int | None) -> Iterator[int]:
    """Answer parts in `workers` actors, here or on the cluster that RAY_ADDRESS names; gives the rows of each part.

    Raises:
        Fault: what an actor found wrong.
    """
    import ray  # an extra

    each = threads or 1
    ours = not ray.is_initialized()
    if ours:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what it says is of its own insides
        cluster = "RAY_ADDRESS" in os.environ
        cores = None if cluster else workers * each
        board = None if cluster else False
        ray.init(num_cpus=cores, include_dashboard=board, log_to_driver=False, logging_level=logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        parts = ray.data.from_items([{"part": part} for part in todo], override_num_blocks=len(todo))
        answered = parts.map_batches(
            ShardPredictor,
            fn_constructor_args=(bulk, each),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=each,
            num_gpus=1 if torch.cuda.is_available() else None,
        )
        for row in answered.iter_rows():
            yield int(row["rows"])
    except ray.exceptions.RayTaskError as error:
        fault = next((one for one in _causes(error) if isinstance(one, Fault)), None)
        if fault is None:
            raise
        raise fault from None
    finally:
        if ours:
            ray.shutdown()


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "cause", None) or seen.__cause__
