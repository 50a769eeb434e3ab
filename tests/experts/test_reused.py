"""Tests of `experts.reused`: a changed result is not read again, and a folder is hashed once while unchanged."""

from pathlib import Path

import pytest

from experts import reused
from experts.atomic_io import atomic_folder, read_json, write_json
from experts.errors import Fault
from experts.reused import check_manifest_once, read_sealed_json, write_sealed_json


def test_sealed_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_sealed_json(tmp_path / "a.json", {"auto": 64, "domains": {1: (0.1, None, "ü")}})
    assert read_sealed_json(tmp_path / "a.json") == {"auto": 64, "domains": {"1": [0.1, None, "ü"]}}


def test_sealed_json_with_another_number_or_without_its_hash_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sealed_json(path, {"auto": 64})
    path.write_text(path.read_text().replace("64", "94", 1))
    with pytest.raises(Fault, match="a changed file"):
        read_sealed_json(path)
    for content in ({"auto": 64}, [], None):
        write_json(path, content)
        with pytest.raises(Fault, match="no key content_sha256"):
            read_sealed_json(path)


def test_folder_is_hashed_once_and_again_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with atomic_folder(tmp_path / "cache") as folder:
        (folder / "states.bin").write_bytes(bytes(100))
    calls: list[Path] = []
    check = reused.check_manifest
    monkeypatch.setattr(reused, "check_manifest", lambda path, *rest: (calls.append(path), check(path, *rest)))
    for _ in range(3):
        check_manifest_once(tmp_path / "cache", "a cache", ["states.bin"])
    assert len(calls) == 1
    (tmp_path / "cache" / "states.bin").write_bytes(bytes(99) + b"1")
    with pytest.raises(Fault, match="with sha256"):
        check_manifest_once(tmp_path / "cache", "a cache", ["states.bin"])
    content = read_json(tmp_path / "cache" / "manifest.json")
    write_json(tmp_path / "cache" / "manifest.json", {**content, "sha256": {}})
    with pytest.raises(Fault, match="no file in its table"):
        check_manifest_once(tmp_path / "cache", "a cache", ["states.bin"])
