"""Reading and writing tensors as safetensors.

This is separate from `experts.atomic_io` so that commands without tensors start without importing torch.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experts.durable import default_rights
from experts.errors import Fault
from experts.reading import read_errors_as_faults

LOWER_RATE = "train it again with a lower learning rate"
"""Remedy for weights that are not finite."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, finite: bool = True
) -> None:
    """Save tensors as safetensors, on the CPU and contiguous, with the rights that the umask gives a file.

    Args:
        path: the file to write.
        tensors: what to save.
        metadata: strings for the file's header.
        finite: refuse NaN and infinity.

    Raises:
        Fault: if a tensor is not finite, or the file cannot be written, for example because the disk is full.
    """
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    if finite:
        check_finite(content, path)
    try:
        rights = default_rights(path)
        save_file(content, path, metadata or {"format": "pt"})  # creates a file that only its owner may read
        path.chmod(rights)
    except (SafetensorError, OSError) as error:
        raise Fault(
            f"space and write permission for {path}",
            str(error),
            "free some space, fix the permissions or choose another folder",
        ) from error


def load_tensors(path: Path, finite: bool = True) -> dict[str, Tensor]:
    """Load a safetensors file.

    Args:
        path: the file.
        finite: refuse NaN and infinity.

    Raises:
        Fault: if it is missing, unreadable, truncated or not a safetensors file, or a tensor is not finite.
    """
    with read_errors_as_faults(path):
        if not path.is_file():
            raise Fault(f"a safetensors file at {path}", "no such file", "write the folder again or choose another one")
        path.open("rb").close()  # safetensors reports a file that may not be read as missing
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise Fault(f"a complete safetensors file at {path}", str(error), "copy or write it again") from error
    if finite:
        check_finite(tensors, path)
    return tensors


def check_finite(tensors: Mapping[str, Tensor], source: Path | str, remedy: str = LOWER_RATE) -> None:
    """Check that tensors hold neither NaN nor infinity.

    Args:
        tensors: by name; those of integers pass.
        source: where they come from, for the message.
        remedy: what to do, for the message.

    Raises:
        Fault: naming the first tensor that does.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not is_finite(tensor):
            raise Fault(f"finite weights in {source}", f"NaN or infinity in {name}", remedy)


def is_finite(tensor: Tensor) -> bool:
    """Whether all elements of a tensor are finite.

    The sum is at least ten times as fast as looking at each element, and finite only if all are; an overflow is decided
    element by element.
    """
    if tensor.element_size() == 1:  # torch does not add numbers of 8 bits
        tensor = tensor.float()
    wide = torch.float64 if tensor.dtype == torch.float64 else torch.float32
    return bool(torch.isfinite(tensor.sum(dtype=wide)) or torch.isfinite(tensor).all())


def tensor_names(path: Path) -> list[str]:
    """Return the names of a safetensors file's tensors, without loading them.

    Raises:
        Fault: if it is missing, truncated or not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as tensors:
            return list(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise Fault(f"a complete safetensors file at {path}", str(error), "copy or write it again") from error
