"""What makes a written file last: fsync, and the rights that the umask gives.

`experts.atomic_io` uses these steps; other modules use `experts.atomic_io`.
"""

import os
import stat
from contextlib import suppress
from pathlib import Path


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk, so that a later rename cannot outlive its content in a power cut.

    Raises:
        OSError: if the disk fails or is full.
    """
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk, on systems that can."""
    with suppress(OSError):  # Windows opens no folder, and some network disks do not sync one
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def settle_folder(folder: Path) -> None:
    """Give everything below a new folder the rights that the umask gave the folder, and wait until it is on the disk.

    Libraries create files that only their owner may read, as safetensors does.

    Raises:
        OSError: if the disk fails or is full.
    """
    rights = stat.S_IMODE(folder.stat().st_mode) & 0o777
    for path in sorted(folder.rglob("*"), reverse=True):  # content before its folder
        if path.is_symlink():
            continue
        status = path.stat()
        wanted = rights if stat.S_ISDIR(status.st_mode) else rights & 0o666
        if status.st_mode & 0o777 != wanted:
            path.chmod((stat.S_IMODE(status.st_mode) & ~0o777) | wanted)
        sync_folder(path) if stat.S_ISDIR(status.st_mode) else sync_file(path)
    sync_folder(folder)


def default_rights(path: Path) -> int:
    """Return the rights that the umask gives a file, by creating it empty if it does not exist."""
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)
