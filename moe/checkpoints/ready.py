"""The ready mixture, which ships with the package: where its folder is, and that it is the one of this release.

Free of torch, since prediction without torch needs it.
"""

from pathlib import Path

from experts.atomic_io import MANIFEST, sha256_of
from experts.errors import Fault

READY = "ready"
"""Name of the ready mixture wherever the folder of a model is expected."""
READY_FOLDER = Path(__file__).parent.parent / "ready"
READY_SHA256 = ""
"""SHA-256 of the manifest of the ready mixture of this release; the manifest has the hash of every other file."""


def ready_folder() -> Path:
    """Return the folder of the ready mixture.

    Only its manifest is checked; whoever reads the mixture checks its files against the manifest.

    Raises:
        Fault: if it is missing, or is not the mixture of this release.
    """
    manifest = READY_FOLDER / MANIFEST
    if not manifest.is_file():
        raise Fault(f"the ready mixture at {READY_FOLDER}", "none", "install finmoe again: it ships with the package")
    if (digest := sha256_of(manifest)) != READY_SHA256:
        raise Fault(
            f"the ready mixture of this release, with sha256 {READY_SHA256[:12]}… of its manifest, at {READY_FOLDER}",
            f"sha256 {digest[:12]}…",
            "install finmoe again, or give the folder of your own model",
        )
    return READY_FOLDER
