"""Wall time and peak memory of a block of code; out-of-memory errors become a Fault."""

import ctypes
import gc
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from experts.errors import Fault

MIB = 2**20
SINCE_START = "process since its start"
"""The peak of memory cannot be reset, so it includes what ran before."""


@dataclass
class Cost:
    """Wall time and peak memory of a block, filled in by `measure_cost` when the block ends.

    Args:
        seconds: wall time.
        peak_mib: peak memory in MiB; None where the operating system does not report it.
        memory_of: what was measured: `cuda` (memory allocated by torch), `process` (resident set), or
            `process since its start` (resident set, where the system cannot reset an earlier peak).
    """

    seconds: float = 0.0
    peak_mib: float | None = None
    memory_of: str = "process"


_MEASURED: list[Cost] = []
"""Costs of the blocks that run, whose peak survives a reset inside them."""


@contextmanager
def measure_cost(cost: Cost) -> Iterator[None]:
    """Store the time and peak memory of the block in `cost`, even if it raises."""
    cost.memory_of = reset_peak()
    _MEASURED.append(cost)
    start = time.perf_counter()
    try:
        yield
    finally:
        cost.seconds = time.perf_counter() - start
        _keep_peak(cost)
        _MEASURED.remove(cost)


@contextmanager
def oom_guard(advice: str) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a Fault; a process that the system kills cannot be caught.

    Args:
        advice: the remedy, which names the setting to lower.

    Raises:
        Fault: if memory runs out; it states the size of the failed allocation where torch reports it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        size = re.search(r"allocat\w* ([\d.,]+ ?\w+)", str(error))
        detail = f"no room for {size.group(1)} more" if size else "out of memory"
        raise Fault(expected="enough memory", found=detail, remedy=advice) from error


def is_out_of_memory(error: Exception) -> bool:
    """Whether an exception means that memory ran out, of the process or the GPU."""
    messages = ("can't allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in messages)


def reset_peak(device: torch.device | None = None) -> str:
    """Reset the peak so far, if possible, and return what `peak_mib` is the peak of (`Cost.memory_of`).

    Args:
        device: by default the GPU if there is one, else the CPU.
    """
    for cost in _MEASURED:
        _keep_peak(cost)
    if _is_cuda(device):
        torch.cuda.reset_peak_memory_stats(device)
        return "cuda"
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: resets VmHWM
    except OSError:
        return SINCE_START
    return "process"


def peak_mib(device: torch.device | None = None) -> float | None:
    """Peak memory since `reset_peak` in MiB; None where the system does not report it."""
    if _is_cuda(device):
        return torch.cuda.max_memory_allocated(device) / MIB
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return peak_mib_since_start()


def _is_cuda(device: torch.device | None) -> bool:
    return torch.cuda.is_available() if device is None else device.type == "cuda"


def _keep_peak(cost: Cost) -> None:
    """Raise the peak of a block to the one since the last reset."""
    peak = peak_mib()
    if peak is not None:
        cost.peak_mib = max(peak, cost.peak_mib or 0.0)


def resident_mib() -> float:
    """Current resident set of this process in MiB; 0 where the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    except (OSError, ValueError, AttributeError):
        return 0.0


def seconds_since_start() -> float:
    """Seconds since this process was started; 0 where the system does not report it."""
    try:
        started = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(started) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0


def peak_mib_since_start() -> float | None:
    """Peak resident set of this process since its start, in MiB; None where the system does not report it."""
    try:
        import resource  # missing on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)  # bytes on macOS, KiB elsewhere


def release_memory() -> None:
    """Collect garbage, and give free memory back to the system, so that it does not count as this process's."""
    gc.collect()
    if sys.platform == "linux":
        try:
            ctypes.CDLL("libc.so.6").malloc_trim(0)  # memory that is free but still counted as this process's
        except (OSError, AttributeError):  # a C library other than glibc
            return
