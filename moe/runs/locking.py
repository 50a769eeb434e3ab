"""Locks of run folders for the steps and commands that write there; `experts.locks` holds the lock itself."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from experts.locks import output_lock, run_lock
from moe.runs.best import has_mixture
from moe.runs.layout import CHECKPOINTS, LOGS

if TYPE_CHECKING:
    from moe.runs.workspace import Workspace

__all__ = ["model_lock", "new_folder_lock", "run_lock", "writes_run", "writes_run_and_model"]

P = ParamSpec("P")
R = TypeVar("R")


def writes_run(step: "Callable[Concatenate[Workspace, P], R]") -> "Callable[Concatenate[Workspace, P], R]":
    """Decorate a step so that it holds the lock of its workspace's folder; a step that calls another holds it once."""

    @wraps(step)
    def locked(work: "Workspace", /, *args: P.args, **kwargs: P.kwargs) -> R:
        with run_lock(work.out):
            return step(work, *args, **kwargs)

    return locked


def writes_run_and_model(
    step: "Callable[Concatenate[Workspace, Path, P], R]",
) -> "Callable[Concatenate[Workspace, Path, P], R]":
    """Decorate a step that also writes into a model's folder, its second argument, as `writes_run` does."""

    @wraps(step)
    def locked(work: "Workspace", folder: Path, /, *args: P.args, **kwargs: P.kwargs) -> R:
        with run_lock(work.out), model_lock(folder):
            return step(work, folder, *args, **kwargs)

    return locked


def model_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock what is written into a model's folder: that of its run, or the folder itself if it is in no run.

    Raises:
        Fault: on entry, if another process writes there.
    """
    if not folder.is_dir():
        return nullcontext()  # reading the model is a fault
    return run_lock(_run_of(folder) or folder)


def new_folder_lock(folder: Path) -> AbstractContextManager[None]:
    """Lock a folder that will be written: that of its run, or the folder by its name if it is in no run.

    Raises:
        Fault: on entry, if another process writes there.
    """
    run = _run_of(folder)
    return output_lock(folder) if run is None else run_lock(run)


def _run_of(folder: Path) -> Path | None:
    """The run folder that a folder is in, directly, or below one of the run's own folders; None if it is in no run."""
    for parent in (folder.absolute().parent, folder.absolute().parent.parent):
        if has_mixture(parent) or any((parent / name).is_dir() for name in (CHECKPOINTS, LOGS)):
            return parent
    return None
