"""Who else is told of training: TensorBoard, Weights & Biases, MLflow, each by transformers' own callback.

What they are told is what `moe.training.trainer` logs; our own log on disk is `moe.training.callbacks`'.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from experts.errors import Fault
from moe import distributed as ranks

Tracker = Literal["tensorboard", "wandb", "mlflow"]
BOARD: Tracker = "tensorboard"
PROJECT = {"WANDB_PROJECT": "finmoe", "MLFLOW_EXPERIMENT_NAME": "finmoe"}
"""Where runs are put that the environment names no place for."""


def check_trackers(names: Sequence[Tracker]) -> None:
    """Refuse a tracker whose library is not there.

    Raises:
        Fault: naming what to install.
    """
    for name in missing(names):
        raise Fault(
            f"{name}, which `track` names", "none installed", f"install it: pip install {name}, or leave it out"
        )


def missing(names: Sequence[Tracker]) -> list[str]:
    """The libraries that are not there."""
    return [name for name in dict.fromkeys(names) if importlib.util.find_spec(name) is None]


def reported(names: Sequence[Tracker]) -> list[str]:
    """What transformers' Trainer is to report to, from the first process: all but TensorBoard, whose folder is ours."""
    return [name for name in dict.fromkeys(names) if name != BOARD] if ranks.first() else []


@contextmanager
def tracked(names: Sequence[Tracker]) -> Iterator[None]:
    """A stage is one run of its tracker: what it began is ended with it."""
    for name, value in PROJECT.items():
        os.environ.setdefault(name, value)
    wandb: Any = importlib.import_module("wandb") if "wandb" in reported(names) else None
    before = None if wandb is None else wandb.run
    try:
        yield
    finally:
        if wandb is not None and before is None and wandb.run is not None:
            wandb.finish()
