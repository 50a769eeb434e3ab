"""Checkpoints of a stage under way: each is whole or passed over, and tensors and JSON alone, never a pickle.

What else stands in one is `moe.training.trainer`'s; what a finished stage leaves, `moe.checkpoints.mixture`'s and
`experts.expert_io`'s.
"""

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

from experts.atomic_io import MANIFEST, check_manifest, read_json, write_json, write_manifest
from experts.errors import Fault
from experts.safetensors_io import load_tensors, save_tensors
from moe.training.fsdp import distribute_like
from router.loss_weighting import load_optimizer_state

OPTIMIZER, SCHEDULE, RANDOM = "optimizer.safetensors", "schedule.json", "random"


def rng_file(rank: int = 0) -> str:
    """Where a process keeps its random numbers in a checkpoint; the others' names tell how many trained together."""
    return f"{RANDOM}-{rank}.safetensors" if rank else f"{RANDOM}.safetensors"


def check_world_size(path: Path, processes: int) -> None:
    """Refuse to go on with more or fewer processes: their steps are of other rows.

    Raises:
        Fault: when the checkpoint was written by another number of them.
    """
    wrote = len(list(path.glob(f"{RANDOM}*.safetensors")))
    if wrote != processes:
        raise Fault(
            f"{wrote} processes, as wrote the checkpoint at {path}",
            str(processes),
            "start as many, or begin anew without --resume",
        )


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where a stage's checkpoint of a step stands."""
    return folder / f"{PREFIX_CHECKPOINT_DIR}-{step}"


def last_complete_checkpoint(folder: Path) -> Path | None:
    """The newest whole checkpoint, if there is one; what was written by halves is taken away."""
    for path in sorted(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"), key=_step, reverse=True):
        try:
            check_manifest(path, "checkpoint")
        except Fault:
            shutil.rmtree(path, ignore_errors=True)
        else:
            return path
    return None


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


@contextmanager
def writing_checkpoint(folder: Path, step: int) -> Iterator[None]:
    """While it lasts a checkpoint is written; then it is marked as whole.

    Raises:
        Fault: when it cannot be written, as on a full disk; nothing of it is left.
    """
    path = checkpoint_path(folder, step)
    try:
        (path / MANIFEST).unlink(missing_ok=True)  # the same step again, after a stop
        yield
        write_manifest(path)
    except (OSError, Fault) as error:
        shutil.rmtree(path, ignore_errors=True)
        raise Fault(
            f"room and rights for a checkpoint at {path}",
            getattr(error, "strerror", None) or " ".join(str(error.__cause__ or error).split()),
            "free some space or mend the rights; the checkpoint before it is whole, --resume goes on from it",
        ) from error


def save_optimizer(folder: Path, moments: Mapping[str, Tensor], schedule: LRScheduler) -> None:
    """Write an optimizer's moments (`optimizer_state`) as tensors, and where its schedule stands."""
    save_tensors(folder / OPTIMIZER, moments)
    write_json(folder / SCHEDULE, schedule.state_dict())


def load_optimizer(folder: Path, optimizer: torch.optim.Optimizer, schedule: LRScheduler) -> None:
    """Go on with the moments, the schedule and its rates.

    Raises:
        Fault: when a file is missing or broken.
    """
    load_optimizer_state(optimizer, load_tensors(folder / OPTIMIZER))
    for parameter, moments in optimizer.state.items():
        moments |= {name: distribute_like(value, parameter) for name, value in moments.items()}
    schedule.load_state_dict(read_json(folder / SCHEDULE))
    for group, rate in zip(optimizer.param_groups, schedule.get_last_lr(), strict=True):
        group["lr"] = rate


def get_rng_state() -> dict[str, Tensor]:
    """Where Python's, numpy's and torch's random numbers stand, as tensors."""
    version, numbers, gauss = random.getstate()
    _, keys, place, has_gauss, cached = np.random.get_state(legacy=True)
    found = {
        "python": torch.tensor([version, *numbers]),
        "python.gauss": torch.tensor(math.nan if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*np.asarray(keys).tolist(), int(place), int(has_gauss)]),
        "numpy.cached": torch.tensor(float(cached), dtype=torch.float64),
        "cpu": torch.get_rng_state(),
    }
    gpus = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return found | {f"cuda.{i}": state for i, state in enumerate(gpus)}


def set_rng_state(state: dict[str, Tensor]) -> None:
    """Go on with these random numbers; GPUs that are not here are passed over."""
    version, *numbers = state["python"].tolist()
    gauss = state["python.gauss"].item()
    random.setstate((version, tuple(numbers), None if math.isnan(gauss) else gauss))
    *keys, place, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), place, has_gauss, state["numpy.cached"].item()))
    torch.set_rng_state(state["cpu"])
    for i in range(torch.cuda.device_count()):
        if f"cuda.{i}" in state:
            torch.cuda.set_rng_state(state[f"cuda.{i}"], i)
