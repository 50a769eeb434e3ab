"""What makes a written file last and readable: fsync, the rights that the umask gives, and errors of access as faults.

`experts.atomic_io` uses these steps; other modules use `experts.atomic_io`.
"""

import errno
import getpass
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experts.errors import Fault

_DENIED = (errno.EACCES, errno.EPERM)


def sha256_of_file(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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


def access_fault(error: OSError, path: Path) -> Fault:
    """Return why a file or folder cannot be read: who reads it, whose it is, and what gives access.

    Args:
        error: raised while reading.
        path: what was read; the error may name a file below it.
    """
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else path
    if error.errno not in _DENIED:
        return Fault(
            f"a readable file at {path}", error.strerror or str(error), "check the disk, or copy the folder again"
        )
    closed = _first_closed(path)
    user = _user_name(os.geteuid()) if hasattr(os, "geteuid") else getpass.getuser()
    return Fault(
        f"the right of user {user} to read {path}",
        f"none{_describe(closed)}",
        f"run chmod -R a+rX {closed} as its owner, or run this command as another user",
    )


@contextmanager
def read_errors_as_faults(path: Path) -> Iterator[None]:
    """Turn the error of a user who may not read a file into a `Fault`; other errors pass."""
    try:
        yield
    except PermissionError as error:
        raise access_fault(error, path) from error


def _first_closed(path: Path) -> Path:
    """Return the outermost folder of a path that this user may not enter, or the path itself."""
    for parent in reversed(path.absolute().parents):
        if not os.access(parent, os.X_OK):
            return parent
    return path


def _describe(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    return f": {path} is of user {_user_name(status.st_uid)} with mode {stat.S_IMODE(status.st_mode):04o}"


def _user_name(number: int) -> str:
    try:
        import pwd
    except ImportError:  # Windows
        return getpass.getuser()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
