"""Checkpoints of a stage in training: complete or ignored, tensors and JSON only, never pickle."""

import math
import random
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from experts.atomic_io import MANIFEST, check_manifest, finish_folder, read_json, write_json
from experts.errors import Fault
from experts.safetensors_io import load_tensors, save_tensors
from moe.training.fsdp import distribute_like
from router.losses import load_optimizer_state

TRAINED, OBJECTIVE = "trained.safetensors", "objective.safetensors"
OPTIMIZER, SCHEDULE, RNG = "optimizer.safetensors", "schedule.json", "random"
STATE = "trainer_state.json"
"""Steps, history and best metric of the loop, as transformers writes them."""


def rng_file(rank: int = 0) -> str:
    """Name of the file with a process's random states; a checkpoint has one per process."""
    return f"{RNG}-{rank}.safetensors" if rank else f"{RNG}.safetensors"


def check_world_size(path: Path, processes: int) -> None:
    """Check the number of processes that resume: with another number than before, the rows of each step would differ.

    Raises:
        Fault: if another number of processes wrote it.
    """
    writers = len(list(path.glob(f"{RNG}*.safetensors")))
    if writers != processes:
        raise Fault(
            f"{writers} processes, the number that wrote the checkpoint at {path}",
            str(processes),
            f"start {writers} processes, or start from scratch without --resume",
        )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Folder of a stage's checkpoint at a step."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint, if there is one, after deleting incomplete ones."""
    for path in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step, reverse=True):
        try:
            check_checkpoint(path)
        except Fault:
            shutil.rmtree(path, ignore_errors=True)
        else:
            return path
    return None


def check_checkpoint(path: Path) -> None:
    """Check the files of a checkpoint against its manifest.

    Raises:
        Fault: if it is incomplete or damaged.
    """
    check_manifest(path, "a checkpoint", _files_read(path))


def _files_read(path: Path) -> list[str]:
    processes = [file.name for file in path.glob(f"{RNG}*.safetensors")] or [rng_file()]
    return [TRAINED, OBJECTIVE, OPTIMIZER, SCHEDULE, STATE, *processes]


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


@contextmanager
def writing_checkpoint(folder: Path, step: int) -> Iterator[None]:
    """Mark the checkpoint that the block writes as complete when it ends.

    Raises:
        Fault: if it cannot be written, for example because the disk is full; the incomplete checkpoint is deleted.
    """
    path = checkpoint_path(folder, step)
    try:
        (path / MANIFEST).unlink(missing_ok=True)  # exists if a stopped run had already written this step
        yield
        finish_folder(path)
    except (OSError, Fault) as error:
        shutil.rmtree(path, ignore_errors=True)
        if isinstance(error, Fault) and error.__cause__ is None:
            raise  # weights that are not finite
        raise Fault(
            expected=f"free disk space and write permission for a checkpoint at {path}",
            found=getattr(error, "strerror", None) or " ".join(str(error.__cause__ or error).split()),
            remedy="free some space or fix the permissions, then resume from the previous checkpoint with --resume",
        ) from error


def save_optimizer(folder: Path, moments: Mapping[str, Tensor], schedule: LRScheduler) -> None:
    """Write an optimizer's moments (`optimizer_state`) as tensors, and its learning-rate schedule as JSON."""
    save_tensors(folder / OPTIMIZER, moments)
    write_json(folder / SCHEDULE, schedule.state_dict())


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> None:
    """Restore the optimizer's moments, the schedule and its learning rates.

    Raises:
        Fault: if a file is missing or broken.
    """
    load_optimizer_state(optimizer, load_tensors(folder / OPTIMIZER))
    for parameter, moments in optimizer.state.items():
        moments |= {name: distribute_like(value, parameter) for name, value in moments.items()}
    schedule.load_state_dict(read_json(folder / SCHEDULE))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def get_rng_state() -> dict[str, Tensor]:
    """States of the random number generators of Python, numpy and torch, as tensors."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "python": torch.tensor([version, *numbers]),
        "python.gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(position), int(has_gauss)]),
        "numpy.cached": torch.tensor(float(cached), dtype=torch.float64),
        "cpu": torch.get_rng_state(),
    }
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return state | {f"cuda.{i}": gpu for i, gpu in enumerate(gpus)}


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Restore what `get_rng_state` returned; states of GPUs that this machine lacks are ignored."""
    version, *numbers = state["python"].tolist()
    gauss = state["python.gauss"].item()
    random.setstate((version, tuple(numbers), None if math.isnan(gauss) else gauss))
    *keys, position, has_gauss = state["numpy"].tolist()
    numpy_keys, cached = np.array(keys, dtype=np.uint32), state["numpy.cached"].item()
    np.random.set_state(("MT19937", numpy_keys, position, has_gauss, cached))
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)
