"""What a process that was killed has left in the folder of a run: restored or removed before the next step."""

import shutil
from contextlib import suppress
from pathlib import Path

from experts.atomic_io import MANIFEST, remove_leftovers
from moe.console import info
from moe.runs.layout import CACHE, CHECKPOINTS, EXPERTS


def recover_run(out: Path) -> None:
    """Restore or remove what killed processes left in the folder of a run.

    - A folder that was about to be replaced, `.NAME.old`, is NAME again, or is removed if NAME is complete.
    - Temporary files and folders of processes that have ended are removed.
    - The checkpoints of a step whose output was complete when the process was killed are removed; another run of the
      step would otherwise go on from them.
    """
    for folder in (out, out / EXPERTS, out / CACHE):
        remove_leftovers(folder)
    with suppress(OSError):
        for checkpoints in sorted((out / CHECKPOINTS).iterdir()):
            if any(_is_finished(folder / checkpoints.name, checkpoints) for folder in (out, out / EXPERTS)):
                shutil.rmtree(checkpoints, ignore_errors=True)
                info(f"{checkpoints.name}: its checkpoints are removed, since the step was finished before the stop")


def _is_finished(output: Path, checkpoints: Path) -> bool:
    """Whether a step's output was completed after its last checkpoint; a step that trains again has newer ones."""
    written = [path.stat().st_mtime_ns for path in checkpoints.glob(f"*/{MANIFEST}")]
    if not written or not (output / MANIFEST).is_file():
        return False
    return (output / MANIFEST).stat().st_mtime_ns >= max(written)
