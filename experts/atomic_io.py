"""Folders on disk that are whole or absent: atomic writing, and a manifest of hashes.

What a folder means (an expert, a mixture) is told by the modules that use this; nothing here knows of models.
"""

import glob
import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experts.errors import Fault

MANIFEST = "manifest.json"
_MACHINE = platform.node().replace("/", "-").replace(".", "-") or "here"
"""On a disk that several machines share, a process number means nothing without it."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """The JSON of a file.

    Raises:
        Fault: when the file is missing, unreadable or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise Fault(f"a readable JSON file at {path}", reason, "write the folder again or name another") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as `write_bytes`.

    Raises:
        Fault: when the folder cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole: a temporary name beside it, then a rename.

    Raises:
        Fault: when the folder cannot be written.
    """
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON whole, indented, in the given key order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary name beside `path`; what is written there by then is renamed into place on success.

    Raises:
        Fault: when the folder cannot be written.
    """
    temporary = temporary_path(path, "partial")
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(path)
        try:
            yield temporary
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def reserve_space(path: Path, size: int) -> None:
    """Make a file of so many bytes, all of them there: writing into a mapped one on a full disk would end the process.

    Raises:
        Fault: when there is no room for it.
    """
    with os_errors_as_faults(path.parent), path.open("wb") as stream:
        if size and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(stream.fileno(), 0, size)
        stream.truncate(size)


@contextmanager
def os_errors_as_faults(folder: Path) -> Iterator[None]:
    """Turn an operating-system refusal to write below `folder` into a Fault."""
    try:
        yield
    except OSError as error:
        raise Fault(
            f"a folder that can be written at {folder}",
            error.strerror or str(error),
            "name another folder, or mend its rights or the disk's space",
        ) from error


@contextmanager
def atomic_folder(folder: Path, overwrite: bool = False, unlisted: Collection[str] = ()) -> Iterator[Path]:
    """Give a temporary folder beside `folder`; on success add the manifest and rename it into place.

    Args:
        unlisted: files that the manifest does not list, because they name its hash or may change by themselves.

    Raises:
        Fault: when `folder` exists and `overwrite` is false, or when it cannot be written.
    """
    refuse_existing(folder, overwrite)
    with os_errors_as_faults(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{temporary_path(folder, '').name}"))
    try:
        yield temporary
        with os_errors_as_faults(folder.parent):
            temporary.chmod(0o755)
            write_manifest(temporary, unlisted)
            _swap(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path, end: str) -> Path:
    """A name beside a file or folder for what this process has not finished: `.NAME.PID@MACHINE.END`."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_MACHINE}.{end}")


def remove_stale_files(path: Path) -> None:
    """Take away what processes of this machine that were killed left of a file or folder, as `temporary_path` names it."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*@{glob.escape(_MACHINE)}.*"):
        owner = left.name.removeprefix(f".{path.name}.").partition("@")[0]
        if owner.isdigit() and not _process_exists(int(owner)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)


def _process_exists(process: int) -> bool:
    if os.name == "nt":
        return True  # to ask there would send it Ctrl-C
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another person's
    return True


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Raise a Fault when a finished folder would be overwritten unasked."""
    if folder.exists() and not overwrite:
        raise Fault(
            f"no finished step at {folder}", "one that is there already", "pass --overwrite to do it again, or use it"
        )


def _swap(temporary: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, unlisted: Collection[str] = ()) -> None:
    """Write `manifest.json`: the SHA-256 of every other file below the folder, but for those unlisted."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    hashes = {name: sha256_of(path) for name, path in names.items() if name not in unlisted}
    write_json(folder / MANIFEST, {"sha256": hashes})


def check_manifest(folder: Path, kind: str) -> None:
    """Hold every file of a folder against its manifest.

    Raises:
        Fault: when the folder or its manifest is missing or broken, names a file outside the folder, or a file is
            missing or has another hash.
    """
    if (first := next(manifest_faults(folder, kind), None)) is not None:
        raise first


def manifest_faults(folder: Path, kind: str) -> Iterator[Fault]:
    """All that `check_manifest` would refuse, one by one."""
    if not folder.is_dir():
        yield Fault(f"{kind} folder at {folder}", "no such folder", "train or merge it first, or name another")
    elif not (folder / MANIFEST).is_file():
        yield Fault(
            f"{kind} folder with a {MANIFEST} at {folder}",
            "none: the folder is half-written or of another kind",
            "write it again or name another",
        )
    else:
        hashes = read_manifest(folder)
        if isinstance(hashes, Fault):
            yield hashes
        else:
            yield from (fault for name, one in hashes.items() if (fault := _fault_of(folder, name, one)) is not None)


def read_manifest(folder: Path) -> dict[str, str] | Fault:
    """What a folder's manifest says: SHA-256 by file; or why it says nothing."""
    try:
        hashes = read_json(folder / MANIFEST)["sha256"]
    except (Fault, LookupError, TypeError) as error:
        return error if isinstance(error, Fault) else _broken(folder, "no table of sha256")
    if not isinstance(hashes, dict) or not all(isinstance(one, str) for one in hashes.values()):
        return _broken(folder, "a sha256 that is no table of words")
    return hashes


def _broken(folder: Path, found: str) -> Fault:
    return Fault(f"a manifest at {folder / MANIFEST}", found, "copy the whole folder again or write it again")


def _fault_of(folder: Path, name: str, expected: str) -> Fault | None:
    """What is wrong with one file of a manifest; no file outside the folder is opened, nor one that a link leads to."""
    path, again = folder / name, "copy the whole folder again or write it again"
    if not is_safe_relative_path(name):
        return Fault(f"names of files below {folder} in its {MANIFEST}", repr(name)[:80], "do not use this folder")
    if any(one.is_symlink() for one in (path, *path.parents) if one.is_relative_to(folder) and one != folder):
        return Fault(f"{name} itself in {folder}", "a link", "copy the file there, and write the folder again")
    if not path.is_file():
        return Fault(f"{name} in {folder}", "no such file", again)
    if (found := sha256_of(path)) != expected:
        return Fault(f"{path} with sha256 {expected[:12]}…", f"{found[:12]}…", f"the file was changed or cut: {again}")
    return None


def is_safe_relative_path(name: str) -> bool:
    """Whether a name is a plain path below its folder, on any system: not absolute, no `..`, no drive."""
    parts = name.split("/")
    plain = "\\" not in name and "\0" not in name and ":" not in parts[0]
    return plain and not any(part in ("", ".", "..") for part in parts)
