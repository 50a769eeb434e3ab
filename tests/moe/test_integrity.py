"""Claims about `moe verify`: a whole folder passes, every way to spoil one is named, nothing outside is opened."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from corpora import taught_below
from safetensors.torch import load_file, save_file

from experts.atomic_io import check_manifest, read_json, write_json, write_manifest
from experts.errors import Fault
from experts.expert_io import read_expert
from moe.checkpoints.mixture import read_card, read_mixture
from moe.integrity import verify


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with experts and mixtures, over a language model."""
    return taught_below(tmp_path_factory.getbasetemp()).out


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """One of its experts, to be spoiled."""
    return Path(shutil.copytree(run / "experts" / "news", tmp_path / "news"))


def faults(folder: Path) -> str:
    return "\n".join(fault for one in verify(folder)["folders"] for fault in one["faults"])


def change(path: Path, **new: Any) -> None:
    write_json(path, read_json(path) | new)


def test_every_folder_of_a_run_is_found_and_whole(run: Path) -> None:
    found = verify(run)
    assert found["faults"] == 0
    kinds = {Path(one["folder"]).name: one["kind"] for one in found["folders"]}
    assert kinds == {"news": "expert", "forum": "expert", "moe-init": "mixture", "moe-instruct": "mixture"}
    assert all(one["files"] >= 7 and one["remarks"] == [] for one in found["folders"])


def test_a_changed_and_a_missing_file_are_both_named_and_an_unlisted_one_is_remarked(copy: Path) -> None:
    (copy / "README.md").write_text("other words")
    (copy / "metrics.json").unlink()
    (copy / "notes.txt").write_text("mine")
    told = faults(copy)
    assert "README.md with sha256" in told
    assert "metrics.json in" in told
    assert verify(copy)["folders"][0]["remarks"] == ["notes.txt is not in the manifest"]


def test_a_tensor_that_is_missing_unexpected_of_another_rank_or_not_finite_is_named(copy: Path) -> None:
    path = copy / "adapter_model.safetensors"
    weights = load_file(path)
    first, second, third, *_ = sorted(weights)
    spoiled = {name: tensor for name, tensor in weights.items() if name != first}
    spoiled[second] = torch.cat([weights[second]] * 2, dim=-1)
    spoiled[third] = weights[third] * torch.nan
    save_file(spoiled | {"stray": torch.zeros(2)}, path)
    write_manifest(copy)
    told = faults(copy)
    for part in (f"the tensor {first}", f"in {second} of", f"infinity in {third}", "no tensor stray"):
        assert part in told


@pytest.mark.parametrize(
    "name", ["../news/README.md", "/etc/hostname", "a/../../b", "C:/x", "a\\..\\b", "", ".", "a//b", "a\0b"]
)
def test_a_manifest_that_names_a_path_outside_is_refused_and_nothing_there_is_read(
    copy: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(copy / "manifest.json", sha256={name: "0" * 64})
    monkeypatch.setattr("experts.atomic_io.sha256_of", lambda path: pytest.fail(f"{path} was read"))
    with pytest.raises(Fault, match="names of files below"):
        check_manifest(copy, "expert")
    assert "names of files below" in faults(copy)


def test_a_link_is_refused_wherever_it_leads(copy: Path, tmp_path: Path) -> None:
    shutil.move(copy / "README.md", tmp_path / "README.md")
    (copy / "README.md").symlink_to(tmp_path / "README.md")
    assert "found a link" in faults(copy)


@pytest.mark.parametrize("content", ["[]", "{}", '{"sha256": []}', '{"sha256": {"a": 1}}', "{", "\udcff"])
def test_a_manifest_that_is_none_is_a_sentence(copy: Path, content: str) -> None:
    (copy / "manifest.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(Fault, match=r"manifest\.json"):
        read_expert(copy)
    assert "manifest.json" in faults(copy)


@pytest.mark.parametrize(
    ("number", "advice"), [(99, "Update finmoe"), (1, "Older formats are not carried over"), (None, "Write the folder")]
)
def test_another_format_is_refused_by_its_number(run: Path, copy: Path, number: int | None, advice: str) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", copy.parent / "moe-init"))
    for folder, card in ((copy, "expert.json"), (mixture, "mixture.json")):
        change(folder / card, format=number)
        write_manifest(folder)
        assert advice in faults(folder)
        with pytest.raises(Fault, match=advice):
            (read_expert if folder == copy else read_card)(folder)


def test_an_expert_whose_name_is_a_path_is_refused_before_a_file_is_opened(run: Path, tmp_path: Path) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", tmp_path / "moe-init"))
    card = read_json(mixture / "mixture.json")
    card["domains"][0]["experts"] = ["../../../elsewhere"]
    write_json(mixture / "mixture.json", card)
    write_manifest(mixture)
    with pytest.raises(Fault, match="without a path"):
        read_mixture(mixture)
    assert "without a path" in faults(mixture)


def test_another_backbone_is_named_and_one_that_is_not_here_is_a_remark(copy: Path) -> None:
    card = read_json(copy / "expert.json")
    for backbone, where in (
        (card["backbone"] | {"sha256": "0" * 64}, "faults"),
        ({"name": "no/where", "sha256": "0"}, "remarks"),
    ):
        change(copy / "expert.json", backbone=backbone)
        write_manifest(copy)
        assert "backbone" in json.dumps(verify(copy)["folders"][0][where])


def test_router_and_heads_of_another_shape_are_named(run: Path, tmp_path: Path) -> None:
    mixture = Path(shutil.copytree(run / "moe-init", tmp_path / "moe-init"))
    path = mixture / "router.safetensors"
    weights = load_file(path)
    save_file({name: torch.stack([one, one]) for name, one in weights.items()}, path)
    write_manifest(mixture)
    assert f"tensors that fit in {path}" in faults(mixture)


def test_a_plain_peft_adapter_is_read_and_said_to_have_no_manifest(copy: Path) -> None:
    for name in ("manifest.json", "expert.json"):
        (copy / name).unlink()
    (found,) = verify(copy)["folders"]
    assert (found["kind"], found["faults"]) == ("adapter", [])
    assert "no manifest" in found["remarks"][0]


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_where_there_is_nothing_to_check_it_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Fault, match="an expert, a mixture or a run folder"):
        verify(tmp_path / name)
