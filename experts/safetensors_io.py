"""Reading and writing tensors as safetensors.

This is separate from `experts.atomic_io` so that commands without tensors start without importing torch.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from experts.errors import Fault


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save tensors as safetensors, on the CPU and contiguous.

    Raises:
        Fault: if the file cannot be written, for example because the disk is full.
    """
    content = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    try:
        save_file(content, path, metadata or {"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise Fault(
            f"space and write permission for {path}",
            str(error),
            "free some space, fix the permissions or choose another folder",
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load a safetensors file.

    Raises:
        Fault: if it is missing, truncated or not a safetensors file.
    """
    if not path.is_file():
        raise Fault(f"a safetensors file at {path}", "no such file", "write the folder again or choose another one")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Fault(f"a complete safetensors file at {path}", str(error), "copy or write it again") from error


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
