"""The ready mixture: a trained mixture that the package ships, known by the name `ready`; needs no torch."""

from pathlib import Path

from experts.atomic_io import sha256_of
from experts.errors import Fault

READY = "ready"
READY_FOLDER = Path(__file__).parent.parent / READY
READY_HASHES: dict[str, str] = {
    "manifest.json": "d67fbb652cdbe5c1a673dc6aafd8818c827668f95e95f4accccbc4f7e6dfd21b",
    "calibration.json": "e05d1addcc7808f22963bf1397fac78a21862298ff6c7d9d97688a7de797e867",
    "drift.json": "60ef7f5642ec9f9ea8eb30dfd1ba1cf57000cc86ef8038d48497e2a648af391b",
    "graph/graph.json": "8422b11e4428b98f7adad81d6bacfadb6e2cd0dd300f5fbd51c89c9702a5fac8",
}
"""SHA-256 of the files that hold the hashes of all others."""


def ready_folder() -> Path:
    """Return the folder of the ready mixture.

    Raises:
        Fault: if it is missing, or a file is not that of this release.
    """
    for name, digest in READY_HASHES.items():
        path = READY_FOLDER / name
        if not path.is_file():
            remedy = "install finmoe again, or use a model of your own"
            raise Fault(f"the ready mixture at {READY_FOLDER}, with {name}", "no such file", remedy)
        if (actual := sha256_of(path)) != digest:
            raise Fault(
                f"the ready mixture of this release, with {name} of sha256 {digest[:12]}…",
                f"a changed file at {path}, {actual[:12]}…",
                "install finmoe again; copy the folder elsewhere to change a model",
            )
    return READY_FOLDER


def is_ready(folder: Path) -> bool:
    """Whether a path names the ready mixture: the word `ready`, unless there is a folder of that name."""
    return str(folder) == READY and not folder.is_dir()
