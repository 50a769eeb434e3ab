"""Atomic writing of files and folders, and manifests with the SHA-256 of every file in a folder."""

import glob
import json
import os
import platform
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from experts.durable import settle_folder, sync_file, sync_folder
from experts.errors import Fault
from experts.json_io import json_object
from experts.reading import access_fault
from experts.reading import read_json as read_json
from experts.reading import sha256_of as sha256_of

MANIFEST = "manifest.json"
_HOST = platform.node().replace("/", "-").replace(".", "-") or "here"
"""Name of this machine: on a disk that several machines share, a process id is ambiguous without it."""
_AGAIN = "copy the entire folder again or write it again"
"""Remedy for a folder that differs from its manifest."""


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; what UTF-8 cannot hold, as in odd file names, is written as JSON escapes.

    Raises:
        Fault: if the folder cannot be written.
    """
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: under a temporary name in the same folder, then renamed.

    Raises:
        Fault: if the folder cannot be written.
    """
    with atomic_file(path, secrets.token_hex(4)) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON atomically, in the given key order; a result is an object of its fields."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, default=json_object) + "\n")


@contextmanager
def atomic_file(path: Path, suffix: str = "partial") -> Iterator[Path]:
    """Yield a temporary path next to `path`; the file written there reaches the disk, then is renamed to `path`.

    Args:
        path: the file to write.
        suffix: end of the temporary name; another one for each of several threads that write one file.

    Raises:
        Fault: if the folder cannot be written.
    """
    temporary = temporary_path(path, suffix)
    with os_errors_as_faults(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(path)
        try:
            yield temporary
            sync_file(temporary)
            temporary.replace(path)
            sync_folder(path.parent)
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

    Its files have reached the disk before the rename, and have the rights that the umask gives.

    Args:
        folder: the folder to create.
        overwrite: replace `folder` if it exists.
        unlisted: files to leave out of the manifest, because they contain its hash or may change later.

    Raises:
        Fault: if `folder` exists and `overwrite` is false, or if it cannot be written.
    """
    restore_folder(folder)
    refuse_existing(folder, overwrite)
    with os_errors_as_faults(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_stale_files(folder)
        temporary = temporary_path(folder, secrets.token_hex(4))
        temporary.mkdir()
    try:
        yield temporary
        with os_errors_as_faults(folder.parent):
            finish_folder(temporary, unlisted)
            _replace_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_path(path: Path, suffix: str) -> Path:
    """Return the temporary name that this process uses for unfinished output: `.NAME.PID@MACHINE.SUFFIX`."""
    return path.with_name(f".{path.name}.{os.getpid()}@{_HOST}.{suffix}")


def remove_stale_files(path: Path) -> None:
    """Delete temporary files of `path` (see `temporary_path`) left by dead processes of this machine."""
    _remove_leftovers(path.parent, glob.escape(path.name))


def _remove_leftovers(parent: Path, pattern: str) -> None:
    for leftover in parent.glob(f".{pattern}.*@{glob.escape(_HOST)}.*"):
        process = leftover.name.partition(f"@{_HOST}.")[0].rpartition(".")[2]
        if process.isdigit() and not _process_exists(int(process)):
            with suppress(OSError):
                shutil.rmtree(leftover, ignore_errors=True) if leftover.is_dir() else leftover.unlink(missing_ok=True)


def restore_folder(folder: Path) -> None:
    """Undo or complete the replacement of a folder by a process that was killed between two renames.

    The old folder is `.NAME.old`: it becomes NAME again if NAME is missing, else it is removed. Nothing is done while
    another process replaces the folder, or if this user may not change it.
    """
    old = _old_folder(folder)
    with suppress(OSError):
        if not old.is_dir() or any(folder.parent.glob(f".{glob.escape(folder.name)}.*@*.*")):
            return
        if folder.exists() or not (old / MANIFEST).is_file():
            shutil.rmtree(old, ignore_errors=True)
        else:
            old.rename(folder)


def remove_leftovers(parent: Path) -> None:
    """Restore or remove what killed processes of this machine left in a folder; see `restore_folder`."""
    with suppress(OSError):
        _remove_leftovers(parent, "*")
        for old in parent.glob(".*.old"):
            restore_folder(old.with_name(old.name.removeprefix(".").removesuffix(".old")))


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


def _old_folder(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _replace_folder(temporary: Path, folder: Path) -> None:
    old = _old_folder(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    temporary.rename(folder)
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def finish_folder(folder: Path, unlisted: Collection[str] = ()) -> None:
    """Complete a folder: its manifest, the rights that the umask gives its files, and all of it on the disk.

    Raises:
        OSError: if the disk fails or is full.
    """
    settle_folder(folder)
    write_manifest(folder, unlisted)


def write_manifest(folder: Path, unlisted: Collection[str] = ()) -> None:
    """Write `manifest.json`: the SHA-256 of every other file below the folder, except those in `unlisted`."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    names = {path.relative_to(folder).as_posix(): path for path in files}
    hashes = {name: sha256_of(path) for name, path in names.items() if name not in unlisted}
    write_json(folder / MANIFEST, {"sha256": hashes})


def check_manifest(folder: Path, kind: str, required: Collection[str] = ()) -> None:
    """Check every file of a folder against its manifest.

    Args:
        folder: the folder to check.
        kind: what messages call it, such as "an expert".
        required: files that are read, which the manifest has to list.

    Raises:
        Fault: if the folder or its manifest is missing or broken, if the manifest names a file outside the folder, if
            it lists no file or lacks a required one, or if a file is missing, unreadable or has another hash.
    """
    if (first := next(manifest_faults(folder, kind, required), None)) is not None:
        raise first


def manifest_faults(folder: Path, kind: str, required: Collection[str] = ()) -> Iterator[Fault]:
    """Yield every fault for which `check_manifest` would fail."""
    try:
        yield from _manifest_faults(folder, kind, required)
    except OSError as error:
        yield access_fault(error, folder)


def _manifest_faults(folder: Path, kind: str, required: Collection[str]) -> Iterator[Fault]:
    if not folder.is_dir():
        restore_folder(folder)
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
            return
        yield from unlisted_faults(folder, required)
        for name, sha256 in hashes.items():
            if (fault := _file_fault(folder, name, sha256)) is not None:
                yield fault


def unlisted_faults(folder: Path, required: Collection[str]) -> Iterator[Fault]:
    """Yield the required files that a folder's valid manifest does not list."""
    hashes = read_manifest(folder)
    if isinstance(hashes, Fault):
        yield hashes
        return
    missing = [name for name in required if name not in hashes]
    yield from (Fault(f"the hash of {name}, which is read, in {folder / MANIFEST}", "none", _AGAIN) for name in missing)


def read_manifest(folder: Path) -> dict[str, str] | Fault:
    """Return the SHA-256 of each file listed in a folder's manifest, or the fault that makes it unusable."""
    try:
        hashes = read_json(folder / MANIFEST)["sha256"]
    except (Fault, LookupError, TypeError) as error:
        return error if isinstance(error, Fault) else _broken_manifest(folder, "no table `sha256`")
    if not isinstance(hashes, dict) or not all(isinstance(sha256, str) for sha256 in hashes.values()):
        return _broken_manifest(folder, "a `sha256` that is not a table of strings")
    return hashes if hashes else _broken_manifest(folder, "no file in its table `sha256`")


def _broken_manifest(folder: Path, problem: str) -> Fault:
    return Fault(f"a valid manifest at {folder / MANIFEST}", problem, _AGAIN)


def _file_fault(folder: Path, name: str, sha256: str) -> Fault | None:
    """Check one file listed in a manifest, without opening files outside the folder or following links."""
    path = folder / name
    if not is_safe_relative_path(name):
        return Fault(f"names of files below {folder} in its {MANIFEST}", repr(name)[:80], "do not use this folder")
    links = [part for part in (path, *path.parents) if part.is_relative_to(folder) and part != folder]
    if any(part.is_symlink() for part in links) and not _is_in_hub_cache(path, folder):
        return Fault(f"the file {name} in {folder}", "a link", "copy the file there and write the folder again")
    if not path.is_file():
        return Fault(f"{name} in {folder}", "no such file", _AGAIN)
    if (actual := sha256_of(path)) != sha256:
        return Fault(f"{path} with sha256 {sha256[:12]}…", f"{actual[:12]}…", f"the file was changed or cut: {_AGAIN}")
    return None


def _is_in_hub_cache(path: Path, folder: Path) -> bool:
    """Whether a folder is a snapshot in the Hub's cache, and a file of it a link to one of the cache's own files."""
    return folder.parent.name == "snapshots" and path.resolve().parent == folder.parent.parent.resolve() / "blobs"


def is_safe_relative_path(name: str) -> bool:
    """Whether a name is a plain path below its folder on any system: not absolute, no `..`, no drive."""
    parts = name.split("/")
    plain = "\\" not in name and "\0" not in name and ":" not in parts[0]
    return plain and not any(part in ("", ".", "..") for part in parts)
