"""Tests of `experts.durable`: rights follow the umask, files are on the disk before a rename, errors are explained."""

import os
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from experts import atomic_io, durable
from experts.atomic_io import MANIFEST, atomic_file, atomic_folder, check_manifest, remove_leftovers, write_json
from experts.errors import Fault
from experts.reading import access_fault
from experts.safetensors_io import is_finite, load_tensors, save_tensors


@pytest.fixture(params=[0o022, 0o027, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_rights_of_every_written_file_and_folder_follow_the_umask(tmp_path: Path, umask: int) -> None:
    with atomic_folder(tmp_path / "model") as folder:
        save_tensors(folder / "weights.safetensors", {"a": torch.ones(2)})
        write_json(folder / "card.json", {})
        (folder / "experts").mkdir(mode=0o700)
        (folder / "experts" / "private").touch(mode=0o600)  # as some libraries create files
    with atomic_file(tmp_path / "drift.safetensors") as path:
        save_tensors(path, {"a": torch.ones(2)})
    write_json(tmp_path / "result.json", {})
    for path in tmp_path.rglob("*"):
        assert rights(path) == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_every_file_and_its_folder_are_on_the_disk_before_and_after_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_sync(handle: int) -> None:
        steps.append(Path(f"/proc/self/fd/{handle}").readlink().name)
        fsync(handle)

    def note_rename(path: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(path, target)

    monkeypatch.setattr(durable.os, "fsync", note_sync)
    monkeypatch.setattr(atomic_io.Path, "rename", note_rename)
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "inner").mkdir()
        (folder / "inner" / "weights").write_text("1")
    before, after = steps[: steps.index("rename")], steps[steps.index("rename") + 1 :]
    assert {"weights", "inner", folder.name} <= set(before)
    assert any(name.startswith(f".{MANIFEST}") for name in before)
    assert after == [tmp_path.name]


def test_old_folder_of_an_interrupted_replacement_becomes_the_folder_again(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "news") as folder:
        (folder / "a").write_text("old")
    (tmp_path / "news").rename(tmp_path / ".news.old")
    check_manifest(tmp_path / "news", "an expert", ["a"])  # a reader restores it, too
    assert {path.name for path in tmp_path.iterdir()} == {"news"}
    with atomic_folder(tmp_path / ".forum.old") as folder:
        (folder / "a").write_text("old")
    with pytest.raises(Fault, match="existing folder"), atomic_folder(tmp_path / "forum"):
        pass
    assert (tmp_path / "forum" / "a").read_text() == "old"


def test_old_folder_is_removed_if_the_new_one_is_complete_and_kept_while_it_is_written(tmp_path: Path) -> None:
    for name in ("news", ".news.old"):
        with atomic_folder(tmp_path / name) as folder:
            (folder / "a").write_text(name)
    writing = tmp_path / f".news.{os.getppid()}@{atomic_io._HOST}.0a"
    writing.mkdir()
    remove_leftovers(tmp_path)
    assert (tmp_path / ".news.old").is_dir()
    writing.rmdir()
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"news"}
    assert (tmp_path / "news" / "a").read_text() == "news"


READ = """
import os, sys
from pathlib import Path
from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from experts.safetensors_io import load_tensors
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
folder = Path(sys.argv[1])
for read in (
    lambda: check_manifest(folder, "a model"), lambda: read_json(folder / "card.json"),
    lambda: load_tensors(folder / "weights.safetensors"),
):
    try:
        read()
    except Fault as fault:
        print(fault)
"""


@pytest.mark.parametrize("closed", ["model", "model/card.json", "model/weights.safetensors", "model/manifest.json"])
def test_refused_access_says_who_may_not_read_which_file_and_what_to_do(closed: str) -> None:
    with tempfile.TemporaryDirectory(prefix="rights-") as name:  # pytest's own folders admit one user only
        top = Path(name)
        top.chmod(0o755)
        with atomic_folder(top / "model") as folder:
            save_tensors(folder / "weights.safetensors", {"a": torch.ones(2)})
            write_json(folder / "card.json", {})
        (top / closed).chmod(0)
        result = subprocess.run([sys.executable, "-c", READ, str(top / "model")], capture_output=True, text=True)
        (top / closed).chmod(0o755)
    assert result.stderr == ""
    assert "the right of user" in result.stdout
    assert f"{top / closed} is of user" in result.stdout
    assert f"chmod -R a+rX {top / closed}" in result.stdout


def test_failing_disk_is_named_with_the_file() -> None:
    assert "Input/output error" in str(access_fault(OSError(5, "Input/output error", "/models/a"), Path("/models")))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensor_with_one_non_finite_element_is_refused_when_it_is_written_and_read(
    value: float, dtype: torch.dtype, tmp_path: Path
) -> None:
    tensor = torch.zeros(1000, dtype=dtype)
    tensor[317] = value
    with pytest.raises(Fault, match=r"finite weights in .*; found NaN or infinity in a"):
        save_tensors(tmp_path / "a.safetensors", {"a": tensor})
    save_tensors(tmp_path / "a.safetensors", {"a": tensor}, finite=False)
    with pytest.raises(Fault, match=r"finite weights in .*; found NaN or infinity in a"):
        load_tensors(tmp_path / "a.safetensors")


def test_finite_tensor_whose_sum_overflows_is_accepted() -> None:
    assert is_finite(torch.full((100,), torch.finfo(torch.float32).max))
    assert not is_finite(torch.tensor([torch.inf, -torch.inf]))
    assert is_finite(torch.ones(3, dtype=torch.float8_e4m3fn))


@pytest.mark.parametrize("size", [0, 4, 30, -1])
def test_truncated_or_overwritten_tensors_are_refused_in_a_sentence(tmp_path: Path, size: int) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(20)})
    path.write_bytes(path.read_bytes()[:size] if size else b"not tensors at all")
    with pytest.raises(Fault, match="a complete safetensors file at"):
        load_tensors(path)
