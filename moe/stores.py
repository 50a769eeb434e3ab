"""Folders and files in any store that fsspec knows, this disk among them; a file that is written is whole or absent.

What is kept there is `moe.parts`'.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from experts.errors import Fault

KINDS = (".csv", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class Store:
    """A folder in any store that fsspec knows; a file in it is whole or absent.

    Args:
        url: of the folder; a plain path is a local one.
    """

    url: str

    @cached_property
    def place(self) -> tuple[Any, str]:
        """The store, and the folder's path in it."""
        try:
            return fsspec.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise Fault(
                "a folder, or the URL of a store that fsspec knows", f"{self.url}: {error}", "mend it"
            ) from error

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        system, root = self.place
        return bool(system.exists(f"{root}/{name}"))

    def names(self) -> set[str]:
        """Of what lies in it."""
        system, root = self.place
        return {str(path).rpartition("/")[2] for path in system.ls(root, detail=False)} if system.isdir(root) else set()

    def read(self, name: str) -> bytes:
        """A file's content."""
        system, root = self.place
        return bytes(system.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: under another name first.

        Raises:
            Fault: when the store takes it not.
        """
        system, root = self.place
        try:
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            with system.open(f"{root}/{name}.partial", "wb") as stream:
                stream.write(content)
            system.mv(f"{root}/{name}.partial", f"{root}/{name}")
        except OSError as error:
            raise Fault(
                f"a folder that can be written at {self.url}", error.strerror or str(error), "name another, or mend it"
            ) from error

    def remove(self, name: str) -> None:
        """Take a folder in it away."""
        system, root = self.place
        if system.exists(f"{root}/{name}"):
            system.rm(f"{root}/{name}", recursive=True)


def files_of(source: str) -> list[tuple[str, int]]:
    """The files of a dataset by name, with their sizes: one, those of a folder, or those that a pattern fits.

    Raises:
        Fault: when there are none, or of no kind that is read.
    """
    system, path = Store(source).place
    try:
        found = [path] if system.isfile(path) else system.find(path) if system.isdir(path) else system.glob(path)
        kept = sorted(str(one) for one in found if str(one).endswith(KINDS))
        sizes = [(system.unstrip_protocol(one), int(system.size(one))) for one in kept]
    except OSError as error:
        raise Fault(f"files to answer at {source}", error.strerror or str(error), "name others") from error
    if not sizes:
        raise Fault(f"files to answer at {source}, {', '.join(KINDS)}", "none", "name a file, a folder or a pattern")
    return sizes


def local_copy(name: str, folder: Path) -> Path:
    """A file as one on this disk."""
    system, path = fsspec.url_to_fs(name)
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        return Path(path)
    target = folder / path.rpartition("/")[2]
    system.get_file(path, str(target))
    return target
