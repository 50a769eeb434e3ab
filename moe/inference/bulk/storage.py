"""Folders and files in any store that fsspec knows, this disk among them; a file that is written is whole or absent.

What is kept there is `moe.inference.bulk.shards`'.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from experts.errors import Fault

KINDS = (".csv", ".jsonl", ".parquet", ".txt")


@dataclass(frozen=True)
class RemoteFolder:
    """A folder in any store that fsspec knows; a file in it is whole or absent.

    Args:
        url: of the folder; a plain path is a local one.

    Raises:
        Fault: in every method, where the store says no.
    """

    url: str

    @cached_property
    def place(self) -> tuple[Any, str]:
        """The store, and the folder's path in it."""
        with storage_faults(self.url):
            return fsspec.url_to_fs(self.url)

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        system, root = self.place
        with storage_faults(self.url):
            return bool(system.exists(f"{root}/{name}"))

    def names(self) -> set[str]:
        """Of what lies in it."""
        system, root = self.place
        with storage_faults(self.url):
            found = system.ls(root, detail=False) if system.isdir(root) else []
        return {str(path).rstrip("/").rpartition("/")[2] for path in found}

    def read(self, name: str) -> bytes:
        """A file's content."""
        system, root = self.place
        with storage_faults(self.url):
            return bytes(system.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file whole: under another name first."""
        system, root = self.place
        with storage_faults(self.url):
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            with system.open(f"{root}/{name}.partial", "wb") as stream:
                stream.write(content)
            system.mv(f"{root}/{name}.partial", f"{root}/{name}")

    def remove(self, name: str) -> None:
        """Take a folder in it away."""
        system, root = self.place
        with storage_faults(self.url):
            if system.exists(f"{root}/{name}"):
                system.rm(f"{root}/{name}", recursive=True)


@contextmanager
def storage_faults(url: str) -> Iterator[None]:
    """Turn whatever a store says no with, each has errors of its own, into a Fault."""
    try:
        yield
    except Exception as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Fault(
            f"a folder here, or a store that fsspec knows and that lets us in, at {url}",
            said,
            "mend its name, its rights or its room",
        ) from error


def list_files(source: str) -> list[tuple[str, int]]:
    """The files of a dataset by name, with their sizes: one, those of a folder, or those that a pattern fits.

    Raises:
        Fault: when there are none, of no kind that is read, or the store cannot be reached.
    """
    system, path = RemoteFolder(source).place
    with storage_faults(source):
        found = [path] if system.isfile(path) else system.find(path) if system.isdir(path) else system.glob(path)
        kept = sorted(str(one) for one in found if str(one).endswith(KINDS))
        sizes = [(system.unstrip_protocol(one), int(system.size(one))) for one in kept]
    if not sizes:
        raise Fault(f"files to answer at {source}, {', '.join(KINDS)}", "none", "name a file, a folder or a pattern")
    return sizes


def local_copy(name: str, folder: Path) -> Path:
    """A file as one on this disk."""
    system, path = fsspec.url_to_fs(name)
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        return Path(path)
    target = folder / path.rpartition("/")[2]
    with storage_faults(name):
        system.get_file(path, str(target))
    return target
