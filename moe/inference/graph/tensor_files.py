"""Tensors of safetensors files as arrays that share the files' memory-mapped bytes; needs no torch."""

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experts.durable import read_errors_as_faults
from experts.errors import Fault
from experts.json_io import parse_json

_DTYPES = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_HEADER_SIZE = 8  # bytes of the header's length


def read_tensors(paths: Iterable[Path]) -> dict[str, np.ndarray]:
    """Return the floating-point tensors of safetensors files in fp32; those that are stored in fp32 are not copied.

    Raises:
        Fault: if a file is missing or is not a complete safetensors file.
    """
    return {name: array for path in paths for name, array in _read_file(path).items()}


def check_finite_arrays(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Check that weights hold neither NaN nor infinity; by their sum, which is finite only if all are.

    Raises:
        Fault: naming the first array that does.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        for name, array in arrays.items():
            if not np.isfinite(array.sum()) and not np.isfinite(array).all():
                remedy = "train it again with a lower learning rate"
                raise Fault(f"finite weights in {source}", f"NaN or infinity in {name}", remedy)


def tensor_names(paths: Iterable[Path]) -> frozenset[str]:
    """Return the names of the floating-point tensors of safetensors files.

    Raises:
        Fault: as `read_tensors`.
    """
    return frozenset(read_tensors(paths))


def _read_file(path: Path) -> dict[str, np.ndarray]:
    try:
        with read_errors_as_faults(path), path.open("rb") as stream:
            content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        start = _HEADER_SIZE + int.from_bytes(content[:_HEADER_SIZE], "little")
        header = parse_json(content[_HEADER_SIZE:start])
        header.pop("__metadata__", None)
        return {name: _to_array(content, start, entry) for name, entry in header.items() if entry["dtype"] in _DTYPES}
    except Fault:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else " ".join(str(error).split())[:160]
        raise Fault(f"a complete safetensors file at {path}", reason, "copy or write it again") from error


def _to_array(content: mmap.mmap, start: int, entry: dict[str, Any]) -> np.ndarray:
    dtype, (begin, end) = np.dtype(_DTYPES[str(entry["dtype"])]), entry["data_offsets"]
    flat = np.frombuffer(content, dtype, count=(end - begin) // dtype.itemsize, offset=start + begin)
    array = flat.reshape(entry["shape"])
    if entry["dtype"] == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array if dtype.itemsize == np.float32().itemsize else array.astype(np.float32)
