"""The runtime of a prediction: onnxruntime or PyTorch, and what this machine has for them; needs neither."""

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, cast

from experts.errors import Fault

Runtime = Literal["auto", "onnx", "torch"]
RUNTIMES = ("auto", "onnx", "torch")
LARGE_FILE = 1_000_000
"""Bytes of a file of texts from which PyTorch in bfloat16 makes up for its slower start, on a CPU with AMX."""


def check_runtime(name: str) -> Runtime:
    """Check the name of a runtime and return it.

    Raises:
        Fault: if there is no such runtime.
    """
    if name not in RUNTIMES:
        raise Fault(f"--runtime {', '.join(RUNTIMES)}", repr(name), "use one of them")
    return cast(Runtime, name)


def is_large(file: Path) -> bool:
    """Whether predicting a file takes so long that a slower start pays; false if there is no file."""
    return file.is_file() and file.stat().st_size >= LARGE_FILE


def has_gpu() -> bool:
    """Whether PyTorch would find a GPU: its build supports one, and a driver's device is there and not hidden."""
    try:
        build = version("torch")
    except PackageNotFoundError:
        return False
    hidden = any(os.environ.get(name) in ("", "-1") for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
    return "+cpu" not in build and not hidden and bool(_gpu_devices())


def _gpu_devices() -> list[Path]:
    """Return the device files of NVIDIA's and AMD's drivers, and of a GPU in WSL."""
    return [
        *Path("/dev").glob("nvidia[0-9]*"),
        *(path for path in map(Path, ("/dev/kfd", "/dev/dxg")) if path.exists()),
    ]


def has_amx() -> bool:
    """Whether the CPU has AMX, with which PyTorch computes in bfloat16 at more than twice the speed of fp32."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
