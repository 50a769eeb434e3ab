"""Files and folders on any storage that fsspec knows, the local disk included; files are written atomically."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import fsspec

from experts.errors import Fault
from moe.data.formats.content import COMPRESSED_ENDINGS
from moe.data.formats.readers import KINDS

SUFFIXES = (*KINDS, *(kind + ending for kind in KINDS if kind != ".parquet" for ending in COMPRESSED_ENDINGS))


@dataclass(frozen=True)
class RemoteFolder:
    """A folder on any storage that fsspec knows.

    Args:
        url: of the folder; a plain path is local.

    Raises:
        Fault: from every method, if the storage reports an error.
    """

    url: str

    @cached_property
    def filesystem(self) -> tuple[Any, str]:
        """The fsspec file system, and the path of the folder in it."""
        with storage_faults(self.url):
            filesystem_and_path: tuple[Any, str] = fsspec.url_to_fs(self.url)
            return filesystem_and_path

    def has(self, name: str) -> bool:
        """Whether a file or folder exists."""
        system, root = self.filesystem
        with storage_faults(self.url):
            return bool(system.exists(f"{root}/{name}"))

    def names(self) -> set[str]:
        """Names of the files and folders in this folder; empty if it does not exist."""
        system, root = self.filesystem
        with storage_faults(self.url):
            paths = system.ls(root, detail=False) if system.isdir(root) else []
        return {str(path).rstrip("/").rpartition("/")[2] for path in paths}

    def read(self, name: str) -> bytes:
        """Read a file."""
        system, root = self.filesystem
        with storage_faults(self.url):
            return bytes(system.cat_file(f"{root}/{name}"))

    def write(self, name: str, content: bytes) -> None:
        """Write a file under a temporary name, then rename it, so that it is complete or absent."""
        system, root = self.filesystem
        with storage_faults(self.url):
            system.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
            with system.open(f"{root}/{name}.partial", "wb") as stream:
                stream.write(content)
            system.mv(f"{root}/{name}.partial", f"{root}/{name}")

    def remove(self, name: str) -> None:
        """Delete a file or a folder with its contents, if it exists."""
        system, root = self.filesystem
        with storage_faults(self.url):
            if system.exists(f"{root}/{name}"):
                system.rm(f"{root}/{name}", recursive=True)


@contextmanager
def storage_faults(url: str) -> Iterator[None]:
    """Turn any error of a storage into a Fault; each storage library has exceptions of its own."""
    try:
        yield
    except Exception as error:
        problem = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
        raise Fault(
            f"a local path, or a storage that fsspec knows and that can be accessed, at {url}",
            problem,
            "check the name, the permissions and the free space",
        ) from error


def list_files(source: str) -> list[tuple[str, int]]:
    """The files of a dataset and their sizes in bytes: a single file, those of a folder, or those of a glob pattern.

    Raises:
        Fault: if there are no files in a readable format, or the storage reports an error.
    """
    system, path = RemoteFolder(source).filesystem
    with storage_faults(source):
        paths = [path] if system.isfile(path) else system.find(path) if system.isdir(path) else system.glob(path)
        readable = sorted(str(path) for path in paths if str(path).endswith(SUFFIXES))
        sizes = [(system.unstrip_protocol(path), int(system.size(path))) for path in readable]
    if not sizes:
        raise Fault(f"files to predict at {source} ({', '.join(KINDS)})", "none", "give a file, a folder or a pattern")
    return sizes


def local_copy(url: str, folder: Path) -> Path:
    """A local path of a file; a remote file is downloaded into `folder`."""
    system, path = fsspec.url_to_fs(url)
    if "file" in (system.protocol if isinstance(system.protocol, tuple) else (system.protocol,)):
        return Path(path)
    target = folder / str(path).rpartition("/")[2]
    with storage_faults(url):
        system.get_file(path, str(target))
    return target
