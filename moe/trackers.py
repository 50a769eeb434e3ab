"""Experiment trackers: TensorBoard, Weights & Biases and MLflow, each through transformers' own callback.

They receive what `moe.training.trainer` logs.
"""

import importlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

from experts.errors import Fault
from moe import distributed

Tracker = Literal["tensorboard", "wandb", "mlflow"]
TENSORBOARD: Tracker = "tensorboard"
PROJECT_VARIABLES = {"WANDB_PROJECT": "finmoe", "MLFLOW_EXPERIMENT_NAME": "finmoe"}
"""Project name for runs, by the environment variable that overrides it."""


def check_trackers(names: Sequence[Tracker]) -> None:
    """Check that the library of every tracker is installed.

    Raises:
        Fault: if one is missing, with the command that installs it.
    """
    for name in missing_trackers(names):
        raise Fault(
            expected=f"the library {name}, which `track` names",
            found="not installed",
            remedy=f"run pip install {name}, or remove it from `track`",
        )


def missing_trackers(names: Sequence[Tracker]) -> list[str]:
    """Names of the trackers whose library is not installed; TensorBoard, the default, is skipped instead."""
    return [name for name in dict.fromkeys(names) if name != TENSORBOARD and importlib.util.find_spec(name) is None]


def uses_tensorboard(names: Sequence[Tracker]) -> bool:
    """Whether TensorBoard files are written: `track` names it and its package is installed."""
    return TENSORBOARD in names and importlib.util.find_spec(TENSORBOARD) is not None


def external_trackers(names: Sequence[Tracker]) -> list[str]:
    """Trackers for the training loop to report to, on rank 0 only; TensorBoard has its own callback and folder."""
    return [name for name in dict.fromkeys(names) if name != TENSORBOARD] if distributed.is_main_process() else []


@contextmanager
def tracker_run(names: Sequence[Tracker]) -> Iterator[None]:
    """Make the block one run of its trackers: a run started in the block is finished with it."""
    for name, value in PROJECT_VARIABLES.items():
        os.environ.setdefault(name, value)
    wandb: Any = importlib.import_module("wandb") if "wandb" in external_trackers(names) else None
    before = None if wandb is None else wandb.run
    try:
        yield
    finally:
        if wandb is not None and before is None and wandb.run is not None:
            wandb.finish()
