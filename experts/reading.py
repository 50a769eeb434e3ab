"""Reading of files that a user or another program wrote: as JSON or as a hash, with errors of access as faults.

Within `each_file_once`, a file is read once, however many checks need its hash or its content.
"""

import errno
import getpass
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.errors import Fault
from experts.json_io import parse_json

_DENIED = (errno.EACCES, errno.EPERM)


@dataclass(frozen=True)
class FileRecord:
    """A file that was read: its hash, and its content if it is JSON."""

    sha256: str
    content: bytes | None


FileRecords = dict[Path, FileRecord]
_RECORDS: ContextVar[FileRecords | None] = ContextVar("records", default=None)


@contextmanager
def each_file_once(records: FileRecords) -> Iterator[None]:
    """Read each file at most once in the block.

    Args:
        records: files that were read before, and count as unchanged; those that the block reads are added.
    """
    before = _RECORDS.set(records)
    try:
        yield
    finally:
        _RECORDS.reset(before)


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks.

    Raises:
        Fault: if this user may not read it.
        OSError: if it is missing, or the disk fails.
    """
    try:
        if _RECORDS.get() is not None and path.suffix == ".json":  # its content may be needed, too
            return _read(path).sha256
        return _hash(path)
    except PermissionError as error:
        raise access_fault(error, path) from error


def read_json(path: Path) -> Any:
    """Read a JSON file, as `parse_json`.

    Raises:
        Fault: if the file is missing, unreadable or not JSON.
    """
    try:
        return parse_json(_read(path).content or b"")
    except PermissionError as error:
        raise access_fault(error, path) from error
    except (OSError, ValueError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else str(error)
        raise Fault(
            f"a readable JSON file at {path}", reason, "write the folder again or choose another one"
        ) from error


def _read(path: Path) -> FileRecord:
    """Read a small file as a whole."""
    records = _RECORDS.get()
    record = records.get(path) if records is not None else None
    if record is None or record.content is None:
        content = path.read_bytes()
        record = FileRecord(hashlib.sha256(content).hexdigest(), content)
        if records is not None:
            records[path] = record
    return record


def _hash(path: Path) -> str:
    """Hash a file of any size, in blocks."""
    records = _RECORDS.get()
    if records is not None and path in records:
        return records[path].sha256
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    if records is not None:
        records[path] = FileRecord(digest, None)
    return digest


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
