"""Atomic writing of files and folders, and manifests with the SHA-256 of every file in a folder."""

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
_HOST = platform.node().replace("/", "-").replace(".", "-") or "here"
"""Name of this machine: on a disk that several machines share, a process id is ambiguous without it."""


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        Fault: if the file is missing, unreadable or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else f"{type(error).__name__}: {error}"
        raise Fault(
            f"a readable JSON file at {path}", reason, "write the folder again or choose another one"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically.

    Raises:
        Fault: if the folder cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name in the same folder, then renamed.

    Raises:
        Fault: if the folder cannot be written.
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
    """Write indented JSON atomically, in the given key order."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; the file written there is renamed to `path` on success.

    Raises:
        Fault: if the folder cannot be written.
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
    """Create a file of `size` bytes with its disk space allocated.

    Without the allocation, writing to a memory-mapped file on a full disk would kill the process.

    Raises:
        Fault: if there is not enough space.
    """
    with os_errors_as_faults(path.parent), path.open("wb") as stream:
        if size and hasattr(os, "posix_fallocate"):  # not on macOS
            os.posix_fallocate(stream.fileno(), 0, size)
        stream.truncate(size)


@contextmanager
def os_errors_as_faults(folder: Path) -> Iterator[None]:
    """Turn an `OSError` raised while writing below `folder` into a `Fault`."""
    try:
        yield
    except OSError as error:
        raise Fault(
            f"a folder that can be written at {folder}",
            error.strerror or str(error),
            "choose another folder, fix its permissions or free disk space",
        ) from error


@contextmanager
def atomic_folder(folder: Path, overwrite: bool = False, unlisted: Collection[str] = ()) -> Iterator[Path]:
    """Yield a temporary folder next to `folder`; on success add the manifest and rename it to `folder`.

    Args:
        folder: the folder to create.
        overwrite: replace `folder` if it exists.
        unlisted: files to leave out of the manifest, because they contain its hash or may change later.

    Raises:
        Fault: if `folder` exists and `overwrite` is false, or if it cannot be written.
    """
    refuse_existing(folder, overwrite)
    with os_errors_as_faults(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(folder)
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=temporary_path(folder, "").name))
    try:
        yield temporary
        with os_errors_as_faults(folder.parent):
            temporary.chmod(0o755)
            write_manifest(temporary, unlisted)
            _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path, suffix: str) -> Path:
    """Return the temporary name that this process uses for unfinished output: `.NAME.PID@MACHINE.SUFFIX`."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_HOST}.{suffix}")


def remove_stale_files(path: Path) -> None:
    """Delete temporary files of `path` (see `temporary_path`) left by dead processes of this machine."""
    for leftover in path.parent.glob(f".{glob.escape(path.name)}.*@{glob.escape(_HOST)}.*"):
        process = leftover.name.removeprefix(f".{path.name}.").partition("@")[0]
        if process.isdigit() and not _process_exists(int(process)):
            shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def _process_exists(process: int) -> bool:
    if os.name == "nt":
        return True  # os.kill(pid, 0) would send Ctrl-C to the process on Windows
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process of another user
    return True


def refuse_existing(folder: Path, overwrite: bool) -> None:
    """Check that a finished folder is not overwritten by accident.

    Raises:
        Fault: if `folder` exists and `overwrite` is false.
    """
    if folder.exists() and not overwrite:
        raise Fault(f"no finished step at {folder}", "an existing folder", "pass --overwrite to replace it, or use it")


def _replace_folder(temporary: Path, folder: Path) -> None:
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def write_manifest(folder: Path, unlisted: Collection[str] = ()) -> None:
    """Write `manifest.json`: the SHA-256 of every other file below the folder, except those in `unlisted`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    hashes = {name: sha256_of(path) for name, path in names.items() if name not in unlisted}
    write_json(folder / MANIFEST, {"sha256": hashes})


def check_manifest(folder: Path, kind: str) -> None:
    """Check every file of a folder against its manifest.

    Args:
        folder: the folder to check.
        kind: what messages call it, such as "an expert".

    Raises:
        Fault: if the folder or its manifest is missing or broken, if the manifest names a file outside the folder, or
            if a file is missing or has another hash.
    """
    if (first := next(manifest_faults(folder, kind), None)) is not None:
        raise first


def manifest_faults(folder: Path, kind: str) -> Iterator[Fault]:
    """Yield every fault for which `check_manifest` would fail."""
    if not folder.is_dir():
        yield Fault(f"{kind} folder at {folder}", "no such folder", "train or merge it first, or choose another one")
    elif not (folder / MANIFEST).is_file():
        yield Fault(
            f"{kind} folder with a {MANIFEST} at {folder}",
            f"no {MANIFEST}: the folder is incomplete or of another kind",
            "write it again or choose another one",
        )
    else:
        hashes = read_manifest(folder)
        if isinstance(hashes, Fault):
            yield hashes
        else:
            faults = (_file_fault(folder, name, sha256) for name, sha256 in hashes.items())
            yield from (fault for fault in faults if fault is not None)


def read_manifest(folder: Path) -> dict[str, str] | Fault:
    """Return the SHA-256 of each file listed in a folder's manifest, or the fault that makes it unusable."""
    try:
        hashes = read_json(folder / MANIFEST)["sha256"]
    except (Fault, LookupError, TypeError) as error:
        return error if isinstance(error, Fault) else _broken_manifest(folder, "no table `sha256`")
    if not isinstance(hashes, dict) or not all(isinstance(sha256, str) for sha256 in hashes.values()):
        return _broken_manifest(folder, "a `sha256` that is not a table of strings")
    return hashes


def _broken_manifest(folder: Path, problem: str) -> Fault:
    return Fault(f"a valid manifest at {folder / MANIFEST}", problem, "copy the entire folder again or write it again")


def _file_fault(folder: Path, name: str, sha256: str) -> Fault | None:
    """Check one file listed in a manifest, without opening files outside the folder or following links."""
    path, again = folder / name, "copy the entire folder again or write it again"
    if not is_safe_relative_path(name):
        return Fault(f"names of files below {folder} in its {MANIFEST}", repr(name)[:80], "do not use this folder")
    links = [part for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder]
    if any(part.is_symlink() for part in links) and not _is_in_hub_cache(path, folder):
        return Fault(f"the file {name} in {folder}", "a link", "copy the file there and write the folder again")
    if not path.is_file():
        return Fault(f"{name} in {folder}", "no such file", again)
    if (actual := sha256_of(path)) != sha256:
        return Fault(f"{path} with sha256 {sha256[:12]}…", f"{actual[:12]}…", f"the file was changed or cut: {again}")
    return None


def _is_in_hub_cache(path: Path, folder: Path) -> bool:
    """Whether a folder is a snapshot in the Hub's cache, and a file of it a link to one of the cache's own files."""
    return folder.parent.name == "snapshots" and path.resolve().parent == folder.parent.parent.resolve() / "blobs"


def is_safe_relative_path(name: str) -> bool:
    """Whether a name is a plain path below its folder on any system: not absolute, no `..`, no drive."""
    parts = name.split("/")
    plain = "\\" not in name and "\0" not in name and ":" not in parts[0]
    return plain and not any(part in ("", ".", "..") for part in parts)
