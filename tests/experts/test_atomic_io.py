"""Tests of `experts.atomic_io`: leftovers of dead processes are removed, and write errors become faults."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from experts.atomic_io import atomic_file, atomic_folder, check_manifest, reserve_space
from experts.errors import Fault
from moe.data.formats.writers import open_writer


def dead_process() -> int:
    """Return the id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_folders_left_by_dead_processes_are_removed_by_the_next_write(tmp_path: Path) -> None:
    host, gone = platform.node().replace(".", "-"), dead_process()
    living, other = tmp_path / f".news.{os.getppid()}@{host}.abc", tmp_path / f".other.{gone}@{host}.abc"
    elsewhere = tmp_path / f".news.{gone}@{host}2.abc"
    for leftover in (tmp_path / f".news.{gone}@{host}.abc", tmp_path / ".news.old", living, other, elsewhere):
        leftover.mkdir()
        (leftover / "partial").write_text("")
    with atomic_folder(tmp_path / "news") as folder:
        (folder / "a").write_text("b")
    assert set(tmp_path.iterdir()) == {tmp_path / "news", living, other, elsewhere}
    check_manifest(tmp_path / "news", "expert")


def test_partial_files_of_dead_processes_are_removed(tmp_path: Path) -> None:
    for name in ("rows.csv", "answers.csv"):
        (tmp_path / f".{name}.{dead_process()}@{platform.node().replace('.', '-')}.partial").write_text("partial")
    with atomic_file(tmp_path / "rows.csv") as path:
        path.write_text("complete")
    with open_writer(tmp_path / "answers.csv") as writer:
        writer.write({"label": "up"})
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "answers.csv"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_write_error_is_a_fault_and_leaves_no_file(tmp_path: Path, error: OSError) -> None:
    def fail() -> None:
        with atomic_file(tmp_path / "rows.csv") as path:
            path.write_text("partial")
            raise error

    with pytest.raises(Fault, match=error.strerror):
        fail()
    assert not list(tmp_path.iterdir())


def test_reserve_space_allocates_the_file_or_raises_a_fault(tmp_path: Path) -> None:
    reserve_space(tmp_path / "states", 5000)
    assert (tmp_path / "states").stat().st_blocks * 512 >= 5000
    assert (tmp_path / "states").read_bytes() == bytes(5000)
    with pytest.raises(Fault, match=r"No space left|too large"):
        reserve_space(tmp_path / "more", 2**62)
