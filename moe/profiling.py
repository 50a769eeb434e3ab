"""What a piece of work costs: seconds, and the most memory that was in use meanwhile; and a word where it runs out.

It knows nothing of what the work is.
"""

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


@dataclass
class Cost:
    """Filled when the work ends.

    Args:
        seconds: of wall time.
        peak_mib: the most memory in use, MiB; None where the machine does not tell.
        memory_of: `cuda` (what torch allocated), `process` (resident set), or `process since its start`, where the
            system cannot forget an earlier peak.
    """

    seconds: float = 0.0
    peak_mib: float | None = None
    memory_of: str = "process"


@contextmanager
def spending(cost: Cost) -> Iterator[None]:
    """Measure the block, whether or not it ends well."""
    cost.memory_of = _forget()
    start = time.perf_counter()
    try:
        yield
    finally:
        cost.seconds = time.perf_counter() - start
        cost.peak_mib = _peak()


@contextmanager
def within_memory(advice: str) -> Iterator[None]:
    """Turn memory that runs out into a Fault. What the system ends by a signal cannot be told.

    Args:
        advice: which setting to lower.

    Raises:
        Fault: with how much was asked for, where torch tells.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _ran_out(error):
            raise
        asked = re.search(r"allocat\w* ([\d.,]+ ?\w+)", str(error))
        found = f"no room for {asked.group(1)} more" if asked else "it ran out"
        raise Fault("enough memory", found, advice) from error


def _ran_out(error: Exception) -> bool:
    said = ("can't allocate memory", "bad_alloc", "out of memory")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in said)


def _forget() -> str:
    """Forget the peak so far; says whose memory is measured."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        return "cuda"
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # Linux: sets VmHWM back
    except OSError:
        return "process since its start"
    return "process"


def _peak() -> float | None:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / MIB
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        return peak_since_start()


def resident() -> float:
    """The process' resident set as it is, MiB; 0 where the machine does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / MIB
    except (OSError, ValueError, AttributeError):
        return 0.0


def since_start() -> float:
    """Seconds since this process was started; 0 where the machine does not tell."""
    try:
        began = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(began) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError, IndexError):
        return 0.0


def peak_since_start() -> float | None:
    """The process' peak resident set since its start, MiB; None where the machine does not tell."""
    try:
        import resource  # not there on Windows
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (MIB if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere
