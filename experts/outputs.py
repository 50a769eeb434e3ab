"""Outputs that a user names: a command refuses its own inputs, and an existing output without `--overwrite`."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from experts.atomic_io import MANIFEST
from experts.errors import Fault

OTHER_OUTPUT = "choose another output"


def check_output_file(path: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Check that a file to write replaces neither an input nor, unless `overwrite`, anything else.

    Args:
        path: the file; its folder need not exist.
        inputs: files and folders that the command reads.
        overwrite: allow to replace an existing file.

    Raises:
        Fault: if the file is an input (by its path, as a link or in another spelling) or a file inside an input folder,
            if it exists and `overwrite` is false, or if something that is no file has its name.
    """
    if not os.path.lexists(path):
        return
    for source in inputs:
        if _is_same(path, source) or _is_inside(path, source):
            relation = "the input itself" if _is_same(path, source) else f"a file of the input {source}"
            raise Fault("an output that replaces no input", f"{path}, {relation}", OTHER_OUTPUT)
    if path.exists() and not path.is_file():
        kind = "a folder" if path.is_dir() else "a device, pipe or socket"
        raise Fault(f"a file or nothing at {path}", f"{kind} of that name", OTHER_OUTPUT)
    if not overwrite:
        raise Fault(f"no file at {path}", "an existing file", f"pass --overwrite to replace it, or {OTHER_OUTPUT}")


def check_output_folder(folder: Path, inputs: Iterable[Path], overwrite: bool) -> None:
    """Check that a folder to write, as a whole, replaces neither an input nor, unless `overwrite`, another folder.

    Args:
        folder: the folder.
        inputs: files and folders that the command reads.
        overwrite: allow to replace a folder that was written as a whole before: it has a manifest, or is empty.

    Raises:
        Fault: if the folder is, contains, or is a part of an input, if it exists and `overwrite` is false, or if it
            holds files of another origin.
    """
    if not os.path.lexists(folder):
        return
    for source in inputs:
        if _is_same(folder, source) or _is_inside(source, folder) or _is_inside(folder, source):
            raise Fault("an output folder that replaces no input", f"{folder}, with or in {source}", OTHER_OUTPUT)
    if not overwrite:
        remedy = f"pass --overwrite to replace it, or {OTHER_OUTPUT}"
        raise Fault(f"no folder at {folder}", "an existing folder or file", remedy)
    if folder.is_symlink() or not folder.is_dir():
        raise Fault(f"a folder or nothing at {folder}", "a link or a file", f"remove it, or {OTHER_OUTPUT}")
    if any(folder.iterdir()) and not (folder / MANIFEST).is_file():
        raise Fault(
            f"a folder with a {MANIFEST} at {folder}, to be replaced as a whole",
            "other files",
            f"delete the folder if it is not needed, or {OTHER_OUTPUT}",
        )


def check_output_names(folder: Path, names: Iterable[str], inputs: Iterable[Path], overwrite: bool) -> None:
    """Check several files to write in a folder, as `check_output_file` does each."""
    sources = list(inputs)
    for name in names:
        check_output_file(folder / name, sources, overwrite)


def _is_same(path: Path, other: Path) -> bool:
    """Whether two paths name one file or folder, by path or inode."""
    try:
        return path.resolve() == other.resolve() or path.samefile(other)
    except OSError:
        return False


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a path is below a folder, by path or inode."""
    return any(_is_same(parent, folder) for parent in _parents(path)) if folder.is_dir() else False


def _parents(path: Path) -> Iterator[Path]:
    yield from path.resolve().parents
    yield from path.absolute().parents
