"""Claims about a disk that is full or changes while a command runs: one sentence, and nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, moe, workdir
from full_disk import file_size_limit

from experts.atomic_io import check_manifest
from moe.training.callbacks import JsonLog

__all__ = ["moe", "workdir"]
TRAIN = ("train-expert", "--domain", "news", "-c", "tiny.yaml")


@pytest.mark.parametrize("size", [0, 300, 3_000, 12_000])
def test_training_on_a_full_disk_ends_with_one_sentence_and_can_go_on(
    moe: CommandLine, workdir: Path, size: int
) -> None:
    out = workdir / f"full{size}"
    with file_size_limit(size):
        message = moe.refused(*TRAIN, "--run", str(out))
    assert "space" in message
    assert not (out / "experts").exists() or not list((out / "experts").glob("news*"))
    assert not list(out.glob("**/.run.lock"))
    if size == 12_000:
        code, _, err = moe(*TRAIN, "--run", str(out), "--resume")
        assert code == 0, err
        check_manifest(out / "experts" / "news", "an expert")


@pytest.mark.parametrize("name", ["logs", "checkpoints", "data", ""])
def test_folder_that_vanishes_during_training_ends_with_one_sentence_or_is_made_again(
    moe: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    out, write = workdir / f"vanishing-{name}", JsonLog.on_log

    def remove_and_write(log: JsonLog, *args: Any, **kwargs: Any) -> None:
        shutil.rmtree(out / name, ignore_errors=True)
        write(log, *args, **kwargs)

    monkeypatch.setattr(JsonLog, "on_log", remove_and_write)
    code, _, err = moe(*TRAIN, "--run", str(out))
    assert "Traceback" not in err
    assert code in (0, 2)
    if code == 0:
        check_manifest(out / "experts" / "news", "an expert")
    else:
        assert len([line for line in err.splitlines() if line.startswith("moe: ")]) == 1


def test_folder_that_becomes_a_file_during_training_ends_with_one_sentence(
    moe: CommandLine, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = workdir / "replaced", JsonLog.on_log

    def replace_and_write(log: JsonLog, *args: Any, **kwargs: Any) -> None:
        if (out / "logs").is_dir():
            shutil.rmtree(out / "logs")
            (out / "logs").write_text("")
        write(log, *args, **kwargs)

    monkeypatch.setattr(JsonLog, "on_log", replace_and_write)
    moe.refused(*TRAIN, "--run", str(out))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_full_standard_output_is_one_sentence() -> None:
    code = "from moe.commands.main import main; import sys; sys.argv = ['moe', '--help']; main()"
    with Path("/dev/full").open("w") as full:
        result = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("moe: Expected an output that can be written; found No space left on device.")
    assert len(result.stderr.splitlines()) == 1
