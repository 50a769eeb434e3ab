"""Validated reading of the JSON files that accompany weights: cards, calibrations and drift references."""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from experts.errors import Fault
from experts.reading import read_json
from experts.reused import SEAL, check_seal

Record = TypeVar("Record", bound=BaseModel)
EXPERT_CARD = "expert.json"
"""File name of an expert's card."""
ADAPTER, ADAPTER_CONFIG, HEADS = "adapter_model.safetensors", "adapter_config.json", "heads.safetensors"
CONFIG, METRICS, README = "config.yaml", "metrics.json", "README.md"
PROTOTYPES = "prototypes.safetensors"
"""Statistics of an expert's training states, from which a router can start; optional."""
EXPERTS = "experts"
"""Folder of the experts in the folder of a mixture or a run."""
EXPERT_FILES = (EXPERT_CARD, ADAPTER_CONFIG, ADAPTER, HEADS, CONFIG, METRICS, README)
"""Files of an expert's folder, all of which its manifest lists."""


def adapter_files(experts: Iterable[str]) -> list[str]:
    """Return the files of a mixture's experts, by their paths from its folder."""
    return [f"{EXPERTS}/{name}/{file}" for name in experts for file in (ADAPTER_CONFIG, ADAPTER)]


def without_folders(name: str) -> str:
    """Return a name or path without the folders of an absolute path, which describe the machine that wrote a file.

    A path in the Hub's cache becomes the repository's name, any other absolute path its last part. A name, such as that
    of a repository, and a relative path are returned as they are.
    """
    if not (PurePosixPath(name).is_absolute() or PureWindowsPath(name).is_absolute() or name.startswith("~")):
        return name
    parts = [part for part in re.split(r"[\\/]", name) if part]
    cached = next((part for part in parts if part.startswith("models--")), None)
    return cached.removeprefix("models--").replace("--", "/") if cached else (parts[-1] if parts else "")


def read_record(
    path: Path,
    model: type[Record],
    version: int,
    noun: str,
    remedy: str,
    oldest: int | None = None,
    sealed: int | None = None,
) -> Record:
    """Read a JSON file as a pydantic model of a known format version.

    Args:
        path: the JSON file; its key `format` holds the format version.
        model: the pydantic model to validate it with.
        version: the format version that this release writes.
        noun: what messages call the file, such as "expert card".
        remedy: how to create a valid one.
        oldest: the oldest format version that this release reads; None for `version`.
        sealed: the oldest format version with a hash of its own content (`experts.reused`); None for a file that a
            manifest lists.

    Raises:
        Fault: if the file is missing, invalid, changed or of another format version.
    """
    content = read_json(path)
    _check_format(content, path, version, noun, remedy, version if oldest is None else oldest)
    if sealed is not None and (content["format"] >= sealed or SEAL in content):
        content = check_seal(content, path, remedy)
    try:
        return model.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the file"
        raise Fault(f"a valid {noun} at {path}", f"{key}: {first['msg']}", remedy) from error


def _check_format(content: Any, path: Path, version: int, noun: str, remedy: str, oldest: int) -> None:
    written = content.get("format") if isinstance(content, dict) else None
    if not isinstance(written, int):
        raise Fault(f"a {noun} with a format version at {path}", "no key `format`", "write the folder again")
    if not oldest <= written <= version:
        advice = "update finmoe" if written > version else f"older formats are no longer supported: {remedy}"
        raise Fault(f"a {noun} of format {version} at {path}", f"format {written}", advice)
