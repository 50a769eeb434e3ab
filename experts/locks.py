"""Locks of folders and outputs: one process at a time writes in a run's folder, or to one output.

filelock's marker file holds the process id, the host and the start of the process. A marker of a dead process of this
host, or of one whose id another process has now, is replaced; that of another host cannot be checked and is refused.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path

from experts.atomic_io import os_errors_as_faults
from experts.errors import Fault

RUN_LOCK = ".run.lock"


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a run's folder in the block; a thread that holds it already enters at once.

    Of several processes that train together only rank 0 takes it.

    Args:
        folder: is created, and removed at the end if it is still empty.

    Raises:
        Fault: if another process holds it, or the folder cannot be written.
    """
    remedy = "wait until it ends, stop it, or choose another --run"
    with _hold(folder.resolve() / RUN_LOCK, str(folder), remedy) if _is_main_process() else nullcontext():
        yield


@contextmanager
def output_lock(path: Path) -> Iterator[None]:
    """Hold the lock of an output file or folder in the block, so that a second process does not write the same output.

    Raises:
        Fault: if another process holds it, or the folder around it cannot be written.
    """
    lock = path.parent.resolve() / f".{path.absolute().name}.lock"
    with _hold(lock, str(path), "wait until it ends, or choose another output"):
        yield


def _is_main_process() -> bool:
    """Whether this is rank 0; does not import torch."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return bool(distributed.get_rank() == 0)
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def _hold(path: Path, output: str, remedy: str) -> Iterator[None]:
    from filelock import SoftFileLock, Timeout  # slow to import, and needed only by commands that write

    folder = path.parent
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    lock = SoftFileLock(path, is_singleton=True)
    try:
        with os_errors_as_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(blocking=False)
            except Timeout:
                raise _busy(path, output, remedy) from None
        try:
            yield
        finally:
            lock.release()
    finally:
        with suppress(OSError):
            for parent in created:
                parent.rmdir()


def _busy(path: Path, output: str, remedy: str) -> Fault:
    """The fault that names the holder of a lock, and how to go on if that process is gone."""
    with suppress(OSError, ValueError):
        process, host, *_ = path.read_text(encoding="ascii").split("\n")
        since = datetime.fromtimestamp(path.stat().st_mtime).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
        host = host.partition("?")[0]  # without filelock's mark of a container
        holder = f"process {int(process)} on {host}, which has been writing there since {since}"
        return Fault(
            f"no other process that writes to {output}",
            holder,
            f"{remedy}; if that process no longer runs, delete {path}",
        )
    return Fault(
        f"no other process that writes to {output}",
        f"the lock {path.name}, which names no process",
        f"{remedy}; if no process writes there, delete {path}",
    )
