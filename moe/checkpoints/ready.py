"""The ready mixture: a trained mixture that the package ships, known by the name `ready`; needs no torch."""

from pathlib import Path

from experts.atomic_io import MANIFEST, sha256_of
from experts.errors import Fault

READY = "ready"
READY_FOLDER = Path(__file__).parent.parent / READY
READY_SHA256 = "b514c1b304aa9ae47103d46e4b4396f06c462f2b8bdf22d381046711ab038c5a"
"""SHA-256 of its manifest, which lists the hash of every file."""


def ready_folder() -> Path:
    """Return the folder of the ready mixture.

    Raises:
        Fault: if it is missing, or its manifest is not that of this release.
    """
    manifest = READY_FOLDER / MANIFEST
    if not manifest.is_file():
        raise Fault(f"the ready mixture at {READY_FOLDER}", "none", "install finmoe again, or use a model of your own")
    if (digest := sha256_of(manifest)) != READY_SHA256:
        raise Fault(
            f"the ready mixture of this release at {READY_FOLDER}, {READY_SHA256[:12]}…",
            f"changed files, {digest[:12]}…",
            "install finmoe again; copy the folder elsewhere to change a model",
        )
    return READY_FOLDER


def is_ready(folder: Path) -> bool:
    """Whether a path names the ready mixture: the word `ready`, unless there is a folder of that name."""
    return str(folder) == READY and not folder.is_dir()
