"""What one command writes and another reuses: JSON with the hash of its content, and folders checked once a process.

A file that belongs to a folder with a manifest needs no hash of its own.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from experts.atomic_io import check_manifest, read_json, write_json
from experts.errors import Fault
from experts.json_io import Json, json_object, parse_json

SEAL = "content_sha256"
"""Key of the hash of all other keys with their values."""
_REMEDY = "delete the file, which is written again"


def write_sealed_json(path: Path, content: Mapping[str, object]) -> None:
    """Write indented JSON atomically, with the hash of its content as the last key.

    Raises:
        Fault: if the folder cannot be written.
    """
    write_json(path, {**content, SEAL: _digest(content)})


def read_sealed_json(path: Path) -> dict[str, Json]:
    """Read what `write_sealed_json` wrote, without the hash.

    Raises:
        Fault: if the file is missing, unreadable, not JSON, or was changed.
    """
    return check_seal(read_json(path), path)


def check_seal(content: Any, path: Path, remedy: str = _REMEDY) -> dict[str, Json]:
    """Check the hash in a JSON object, and return the object without it.

    Args:
        content: as it was read.
        path: of the file, for the message.
        remedy: what to do, for the message.

    Raises:
        Fault: if it is not an object, has no hash, or the hash is that of another content.
    """
    if not isinstance(content, dict) or SEAL not in content:
        raise Fault(f"{path} with the hash of its content", f"no key {SEAL}", remedy)
    rest = {key: value for key, value in content.items() if key != SEAL}
    if (actual := _digest(rest)) != content[SEAL]:
        raise Fault(
            f"{path} with the content of {SEAL} {str(content[SEAL])[:12]}…",
            f"a changed file, whose content has {actual[:12]}…",
            remedy,
        )
    return rest


def _digest(content: Mapping[str, object]) -> str:
    """SHA-256 of JSON content, however it is indented; keys of other types become strings as in the file."""
    written = parse_json(json.dumps(content, default=json_object))
    return hashlib.sha256(json.dumps(written, sort_keys=True).encode()).hexdigest()


def check_manifest_once(folder: Path, kind: str, required: Collection[str]) -> None:
    """Check a folder as `check_manifest` does, but not again in this process while sizes and times stay the same.

    For gigabytes of rows or states that every stage of a run reads.

    Raises:
        Fault: see `check_manifest`.
    """
    state = _state_of(folder)
    if _CHECKED.get(folder.absolute()) != state or not state:
        check_manifest(folder, kind, required)
        _CHECKED[folder.absolute()] = state


_CHECKED: dict[Path, list[tuple[str, int, int]]] = {}
"""By folder that was checked in this process: name, size and time of change in ns of every file."""


def _state_of(folder: Path) -> list[tuple[str, int, int]]:
    with suppress(OSError):
        files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
        return [(str(path), status.st_size, status.st_mtime_ns) for path, status in files]
    return []
