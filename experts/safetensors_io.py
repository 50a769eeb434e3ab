"""Tensors on disk as safetensors, whole or absent; never pickle.

Kept apart from `experts.atomic_io`, so that commands without tensors start without torch.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from experts.errors import Fault


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Save tensors as safetensors, on the CPU and contiguous.

    Raises:
        Fault: when the file cannot be written, as on a full disk.
    """
    content = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    try:
        save_file(content, path, metadata or {"format": "pt"})
    except (SafetensorError, OSError) as error:
        raise Fault(
            f"room and rights for {path}", str(error), "free some space, mend the rights or name another folder"
        ) from error


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Load a safetensors file.

    Raises:
        Fault: when it is missing or is no whole safetensors file.
    """
    if not path.is_file():
        raise Fault(f"a safetensors file at {path}", "no such file", "write the folder again or name another")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise Fault(f"a whole safetensors file at {path}", str(error), "copy it again or write it again") from error
