"""Tests of `moe.runs.recovery`: what a killed run leaves is restored or removed, and a step under way is untouched."""

import os
from pathlib import Path

from experts.atomic_io import atomic_folder
from moe.runs.best import best_model
from moe.runs.recovery import recover_run


def write(folder: Path, time: int) -> None:
    """Write a folder that was completed at a time."""
    with atomic_folder(folder, overwrite=True) as temporary:
        (temporary / "weights").write_text(str(time))
    os.utime(folder / "manifest.json", (time, time))


def test_checkpoints_of_a_finished_step_are_removed_and_those_of_a_step_under_way_stay(tmp_path: Path) -> None:
    write(tmp_path / "checkpoints" / "news" / "checkpoint-8", 100)
    write(tmp_path / "experts" / "news", 101)
    write(tmp_path / "experts" / "forum", 50)  # is trained again, with --overwrite
    write(tmp_path / "checkpoints" / "forum" / "checkpoint-2", 100)
    write(tmp_path / "checkpoints" / "moe-joint" / "checkpoint-2", 100)  # for the first time
    write(tmp_path / "checkpoints" / "router-warmup" / "checkpoint-2", 100)
    write(tmp_path / "router-warmup", 100)
    recover_run(tmp_path)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"forum", "moe-joint"}


def test_mixture_that_was_about_to_be_replaced_is_found_again(tmp_path: Path) -> None:
    write(tmp_path / "moe-joint", 1)
    (tmp_path / "moe-joint").rename(tmp_path / ".moe-joint.old")
    assert best_model(tmp_path) == tmp_path / "moe-joint"
    assert (tmp_path / "moe-joint" / "weights").read_text() == "1"


def test_recovery_of_experts_and_caches_removes_what_dead_processes_left(tmp_path: Path) -> None:
    write(tmp_path / "experts" / ".news.old", 1)
    write(tmp_path / "cache" / "news-1", 2)
    write(tmp_path / "cache" / ".news-1.old", 1)
    recover_run(tmp_path)
    assert {path.name for path in (tmp_path / "experts").iterdir()} == {"news"}
    assert {path.name for path in (tmp_path / "cache").iterdir()} == {"news-1"}
    recover_run(tmp_path / "none")
