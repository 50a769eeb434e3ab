"""Tests of `moe verify`: complete folders pass, every kind of damage is reported, no file outside is opened."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import instructed_workspace
from safetensors.torch import load_file, save_file

from experts.atomic_io import check_manifest, read_json, write_json, write_manifest
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.mixture import read_card, read_mixture
from moe.integrity import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with experts and mixtures, on a language model."""
    return instructed_workspace(tmp_path_factory.getbasetemp()).out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A copy of one of its experts, to be damaged."""
    return Path(shutil.copytree(run / "experts" / "news", tmp_path / "news"))


def faults(folder: Path) -> str:
    return "\n".join(fault for checked in verify(folder).folders for fault in checked.faults)


def change(path: Path, **changes: Any) -> None:
    write_json(path, read_json(path) | changes)


def test_verify_finds_every_folder_of_a_run_without_faults(run: Path) -> None:
    report = verify(run)
    assert report.faults == 0
    kinds = {Path(checked.folder).name: checked.kind for checked in report.folders}
    assert kinds == {"news": "expert", "forum": "expert", "moe-init": "mixture", "moe-instruct": "mixture"}
    assert all(checked.files >= 7 and checked.remarks == [] for checked in report.folders)


def test_verify_reports_changed_missing_and_unlisted_files(copy: Path) -> None:
    (copy / "README.md").write_text("other words")
    (copy / "metrics.json").unlink()
    (copy / "notes.txt").write_text("mine")
    messages = faults(copy)
    assert "README.md with sha256" in messages
    assert "metrics.json in" in messages
    assert verify(copy).folders[0].remarks == ["notes.txt is not in the manifest"]


def test_verify_reports_missing_unexpected_wrong_rank_and_non_finite_tensors(copy: Path) -> None:
    path = copy / "adapter_model.safetensors"
    weights = load_file(path)
    first, second, third, *_ = sorted(weights)
    damaged = {name: tensor for name, tensor in weights.items() if name != first}
    damaged[second] = torch.cat([weights[second]] * 2, dim=-1)
    damaged[third] = weights[third] * torch.nan
    save_file(damaged | {"stray": torch.zeros(2)}, path)
    write_manifest(copy)
    messages = faults(copy)
    for part in (f"the tensor {first}", f"in {second} of", f"infinity in {third}", "no tensor stray"):
        assert part in messages


@pytest.mark.parametrize(
    "name", ["../news/README.md", "/etc/hostname", "a/../../b", "C:/x", "a\\..\\b", "", ".", "a//b", "a\0b"]
)
def test_verify_refuses_a_manifest_with_outside_paths_without_reading_them(
    copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copy / "manifest.json", sha256={name: "0" * 64})
    monkeypatch.setattr("experts.atomic_io.sha256_of", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(Fault, match="names of files below"):
        check_manifest(copy, "expert")
    assert "names of files below" in faults(copy)


def test_verify_refuses_symbolic_links(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "README.md", tmp_path / "README.md")
    (copy / "README.md").symlink_to(tmp_path / "README.md")
    assert "found a link" in faults(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": []}', '{"sha256": {"a": 1}}', "{", "\udcff"])
def test_verify_reports_an_invalid_manifest_in_a_sentence(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(Fault, match=r"manifest\.json"):
        read_expert(copy)
    assert "manifest.json" in faults(copy)


@pytest.mark.parametrize(
    ("number", "advice"),
    [(99, "Update finmoe"), (1, "Older formats are no longer supported"), (None, "Write the folder")],
)
def test_verify_refuses_other_card_formats(run: Path, copy: Path, number: int | None, advice: str) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", copy.parent / "moe-init"))
    for folder, card in ((copy, "expert.json"), (mixture, "mixture.json")):
        change(folder / card, format=number)
        write_manifest(folder)
        assert advice in faults(folder)
        with pytest.raises(Fault, match=advice):
            (read_expert if folder == copy else read_card)(folder)


def test_verify_refuses_an_expert_name_that_is_a_path(run: Path, tmp_path: Path) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", tmp_path / "moe-init"))
    card = read_json(mixture / "mixture.json")
    card["domains"][0]["experts"] = ["../../../elsewhere"]
    write_json(mixture / "mixture.json", card)
    write_manifest(mixture)
    with pytest.raises(Fault, match="without a path"):
        read_mixture(mixture)
    assert "without a path" in faults(mixture)


def test_verify_reports_a_different_backbone_and_remarks_on_a_missing_one(copy: Path) -> None:
    card = read_json(copy / "expert.json")
    for backbone, where in (
        (card["backbone"] | {"sha256": "0" * 64}, "faults"),
        ({"name": "no/where", "sha256": "0"}, "remarks"),
    ):
        change(copy / "expert.json", backbone=backbone)
        write_manifest(copy)
        assert "backbone" in json.dumps(getattr(verify(copy).folders[0], where))


def test_verify_reports_router_tensors_of_a_wrong_shape(run: Path, tmp_path: Path) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", tmp_path / "moe-init"))
    path = mixture / "router.safetensors"
    weights = load_file(path)
    save_file({name: torch.stack([tensor, tensor]) for name, tensor in weights.items()}, path)
    write_manifest(mixture)
    assert f"tensors in {path} that fit the model" in faults(mixture)


def test_verify_remarks_that_a_plain_peft_adapter_has_no_manifest(copy: Path) -> None:
    for name in ("manifest.json", "expert.json"):
        (copy / name).unlink()
    (checked,) = verify(copy).folders
    assert (checked.kind, checked.faults) == ("adapter", [])
    assert "no manifest" in checked.remarks[0]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_verify_refuses_a_folder_with_nothing_to_check(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Fault, match="an expert, a mixture or a run folder"):
        verify(tmp_path / name)
