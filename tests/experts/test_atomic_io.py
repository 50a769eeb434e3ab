"""Claims about files: what killed processes left is taken away, what living ones write is not, a refusal is a fault."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from experts.atomic_io import check_manifest, reserve_space, atomic_file, atomic_folder
from experts.errors import Fault
from moe.data.writers import open_writer


def dead() -> int:
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_killed_processes_left_is_taken_away_by_the_next_who_writes_there(tmp_path: Path) -> None:
    here, gone = platform.node().replace(".", "-"), dead()
    living, other = tmp_path / f".news.{os.getppid()}@{here}.abc", tmp_path / f".other.{gone}@{here}.abc"
    elsewhere = tmp_path / f".news.{gone}@{here}2.abc"
    for left in (tmp_path / f".news.{gone}@{here}.abc", tmp_path / ".news.old", living, other, elsewhere):
        left.mkdir()
        (left / "half").write_text("")
    with atomic_folder(tmp_path / "news") as folder:
        (folder / "a").write_text("b")
    assert set(tmp_path.iterdir()) == {tmp_path / "news", living, other, elsewhere}
    check_manifest(tmp_path / "news", "expert")


def test_half_files_of_killed_processes_are_taken_away_too(tmp_path: Path) -> None:
    for name in ("rows.csv", "answers.csv"):
        (tmp_path / f".{name}.{dead()}@{platform.node().replace('.', '-')}.partial").write_text("half")
    with atomic_file(tmp_path / "rows.csv") as path:
        path.write_text("whole")
    with open_writer(tmp_path / "answers.csv") as writer:
        writer.write({"label": "up"})
    assert {path.name for path in tmp_path.iterdir()} == {"rows.csv", "answers.csv"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), OSError(30, "Read-only file system")])
def test_a_disk_that_takes_nothing_is_a_fault_and_leaves_nothing(tmp_path: Path, error: OSError) -> None:
    def refused() -> None:
        with atomic_file(tmp_path / "rows.csv") as path:
            path.write_text("half")
            raise error

    with pytest.raises(Fault, match=error.strerror):
        refused()
    assert not list(tmp_path.iterdir())


def test_room_is_reserved_before_a_file_is_mapped(tmp_path: Path) -> None:
    reserve_space(tmp_path / "states", 5000)
    assert (tmp_path / "states").stat().st_blocks * 512 >= 5000
    assert (tmp_path / "states").read_bytes() == bytes(5000)
    with pytest.raises(Fault, match=r"No space left|too large"):
        reserve_space(tmp_path / "more", 2**62)
