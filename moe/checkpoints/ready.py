"""The ready mixture: a trained mixture that the package ships, known by the name `ready`; needs no torch."""

from pathlib import Path

from experts.atomic_io import sha256_of
from experts.errors import Fault

READY = "ready"
READY_FOLDER = Path(__file__).parent.parent / READY
READY_HASHES: dict[str, str] = {
    "manifest.json": "b514c1b304aa9ae47103d46e4b4396f06c462f2b8bdf22d381046711ab038c5a",
    "calibration.json": "0a9ee69182550e7e8440c3885c723352084b0ec886be3d96a441e10e9bc701da",
    "drift.json": "c3b937bc3887104b8257d07ff2baddde52591af1448f9a2c12f1f181bc34a7fa",
    "graph/graph.json": "8f99eb5f3f8954e9ae654489308b1b80871d16bc3d90847c329d260402166394",
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
