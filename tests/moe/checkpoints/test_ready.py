"""The ready mixture is found, and refused if it is missing or of another release."""

from pathlib import Path

import pytest

from experts.atomic_io import MANIFEST, sha256_of, write_manifest
from experts.errors import Fault
from moe.checkpoints import ready


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest in place of the ready mixture, which is pinned."""
    (tmp_path / "mixture.json").write_text("{}")
    write_manifest(tmp_path)
    monkeypatch.setattr(ready, "READY_FOLDER", tmp_path)
    monkeypatch.setattr(ready, "READY_SHA256", sha256_of(tmp_path / MANIFEST))
    return tmp_path


def test_ready_folder_is_the_pinned_one(folder: Path) -> None:
    assert ready.ready_folder() == folder


def test_ready_folder_with_another_manifest_is_refused(folder: Path) -> None:
    (folder / "mixture.json").write_text('{"changed": 1}')
    write_manifest(folder)
    with pytest.raises(Fault, match="the ready mixture of this release"):
        ready.ready_folder()


def test_missing_ready_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "READY_FOLDER", tmp_path / "none")
    with pytest.raises(Fault, match="the ready mixture at"):
        ready.ready_folder()


def test_ready_module_imports_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, moe.checkpoints.ready; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
