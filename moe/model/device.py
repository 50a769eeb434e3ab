"""The device that a model runs on, and the precision that is fast there."""

import torch

from experts.errors import Fault
from moe.model.cpu_features import is_cpu_fast_in_bfloat16


def choose_device(name: str) -> torch.device:
    """Return the device of this name, such as `cpu` or `cuda:1`; `auto` is the default one.

    Raises:
        Fault: if this machine does not have it.
    """
    if name == "auto":
        return default_device()
    device = torch.device(name)
    count = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}.get(device.type, 1)
    if (device.index or 0) >= count:
        raise Fault(f"a device {device}", f"{count} of this kind", "set backbone.device to auto or cpu")
    return device


def default_device() -> torch.device:
    """Return the first GPU, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def compute_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the precision of frozen weights: `float32`, `bfloat16`, or `auto`, the faster one on this device."""
    if name == "auto":
        return torch.bfloat16 if has_fast_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 faster than fp32: most GPUs, CPUs with AMX, and AMD's from Zen 4 on."""
    if device.type == "cuda":
        supported: bool = torch.cuda.is_bf16_supported()
        return supported
    return device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or is_cpu_fast_in_bfloat16())
