"""Tests of `experts.expert_io`: an expert is read as written, and what is incomplete or untrained is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from peft import PeftModel

from experts.adapter import build_adapter
from experts.adapter_bank import ExpertBank
from experts.atomic_io import read_json, write_json, write_manifest
from experts.cards import EXPERT_FILES
from experts.errors import Fault
from experts.expert_io import (
    ADAPTER,
    ADAPTER_CONFIG,
    CARD,
    HEADS,
    README,
    BackboneId,
    ExpertCard,
    check_distinct,
    check_trained,
    read_expert,
    write_expert,
)
from experts.lora import Adapter, LayerMap, LoraSettings

Parts = tuple[Adapter, dict[str, torch.Tensor], ExpertCard]
TASKS = {"news": ("negative", "positive")}


@pytest.fixture(scope="module")
def parts() -> Parts:
    """Adapter, weights and card of an expert for the last layer of a tiny BERT."""
    torch.manual_seed(0)
    backbone = tiny_backbone()
    adapter = build_adapter(LayerMap.from_model(backbone), LoraSettings(r=2, alpha=4, dropout=0.1), 1)
    bank = ExpertBank(backbone, trunk_depth=1)
    bank.add_adapter("news", adapter)
    weights = {name: torch.randn_like(tensor) for name, tensor in bank.adapter_parameters("news").items()}
    card = ExpertCard(
        name="news",
        domain="news",
        role="news",
        backbone=BackboneId(name="/home/someone/models/bert", sha256="ab" * 32),
        trunk_depth=1,
        pooling="mean",
        template="{text}",
        max_length=16,
        tasks=TASKS,
        target_tasks=("news",),
        heads=TASKS,
        layers=adapter.layers,
        head_kind="linear",
        polarity=False,
        data_sha256={"news": "cd" * 32},
        seed=7,
        steps=10,
        metrics={"macro_f1": 0.5},
        versions={},
    )
    return adapter, weights, card


@pytest.fixture
def folder(parts: Parts, tmp_path: Path) -> Path:
    """The expert on disk."""
    adapter, weights, card = parts
    write_expert(tmp_path / "news", card, adapter, weights, {"w": torch.ones(2)}, "seed: 7\n", {"macro_f1": [0.4, 0.5]})
    return tmp_path / "news"


def test_expert_is_read_as_written(parts: Parts, folder: Path) -> None:
    _, weights, card = parts
    expert = read_expert(folder)
    assert (expert.card, expert.name) == (card, "news")
    assert expert.heads["w"].tolist() == [1.0, 1.0]
    assert expert.weights.keys() == weights.keys()
    assert all(torch.equal(expert.weights[name], tensor) for name, tensor in weights.items())
    assert read_json(folder / "manifest.json")["sha256"].keys() >= set(EXPERT_FILES)
    assert expert.digest == read_json(folder / "manifest.json")["sha256"][ADAPTER]


def test_expert_folder_names_no_path_of_the_machine_that_wrote_it(folder: Path) -> None:
    written = "".join(path.read_text() for path in (folder / README, folder / ADAPTER_CONFIG))
    assert "/home/someone" not in written
    assert "base_model: bert\n" in (folder / README).read_text()
    assert "- `news`: negative, positive, for a target in the text" in (folder / README).read_text()


def test_expert_folder_is_a_peft_adapter(parts: Parts, folder: Path) -> None:
    model = PeftModel.from_pretrained(tiny_backbone(), str(folder))
    for name, tensor in parts[1].items():
        loaded = model.get_parameter(name.replace(".weight", ".default.weight"))
        assert torch.equal(loaded, tensor)


def test_existing_folder_is_replaced_with_overwrite_only(parts: Parts, folder: Path) -> None:
    adapter, weights, card = parts
    with pytest.raises(Fault, match="an existing folder"):
        write_expert(folder, card, adapter, weights, {}, "", {})
    write_expert(folder, card.model_copy(update={"seed": 8}), adapter, weights, {}, "", {}, overwrite=True)
    expert = read_expert(folder)
    assert expert.card is not None
    assert (expert.card.seed, expert.heads) == (8, {})


@pytest.mark.parametrize("name", EXPERT_FILES)
def test_missing_or_changed_file_is_refused_by_name(folder: Path, name: str) -> None:
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" ")
    with pytest.raises(Fault, match="was changed or cut"):
        read_expert(folder)
    (folder / name).unlink()
    with pytest.raises(Fault, match="no such file"):
        read_expert(folder)
    write_manifest(folder)
    with pytest.raises(Fault, match=f"the hash of {name}, which is read"):
        read_expert(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 99}, "format 99. Update finmoe"),
        ({"format": 1}, "Older formats are no longer supported: train the expert again"),
        ({"format": None}, "no key `format`"),
        ({"trunk_depth": "deep"}, "trunk_depth: "),
        ({"colour": "red"}, "colour: Extra inputs"),
    ],
)
def test_card_of_another_format_or_with_wrong_keys_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    write_json(folder / CARD, read_json(folder / CARD) | change)
    write_manifest(folder)
    with pytest.raises(Fault, match=message):
        read_expert(folder)


def test_folder_with_peft_files_only_is_a_plain_adapter_named_by_its_folder(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name not in (ADAPTER, ADAPTER_CONFIG):
            path.unlink()
    expert = read_expert(folder)
    assert (expert.card, expert.heads, expert.name) == (None, {}, "news")


def test_adapter_saved_as_pickle_is_refused_with_what_to_do(folder: Path) -> None:
    (folder / ADAPTER).rename(folder / "adapter_model.bin")
    for name in (CARD, "manifest.json"):
        (folder / name).unlink()
    with pytest.raises(Fault, match=r"found adapter_model.bin \(pickle\). Save it again as safetensors with PEFT"):
        read_expert(folder)


def test_missing_folder_and_file_in_its_place_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name in ("nothing", "file"):
        with pytest.raises(Fault, match="no such folder"):
            read_expert(tmp_path / name)


def test_heads_that_are_not_finite_are_refused(folder: Path, parts: Parts) -> None:
    adapter, weights, card = parts
    with pytest.raises(Fault, match=f"finite weights in .*{HEADS}; found NaN or infinity in w"):
        write_expert(folder.parent / "bad", card, adapter, weights, {"w": torch.tensor([float("nan")])}, "", {})
    assert not (folder.parent / "bad").exists()
    assert not [path for path in folder.parent.iterdir() if path.name.startswith(".bad")]


def test_untrained_expert_is_refused_unless_it_kept_its_start(folder: Path) -> None:
    expert = read_expert(folder)
    check_trained(expert)
    zeros = {name: torch.zeros_like(tensor) if ".lora_B" in name else tensor for name, tensor in expert.weights.items()}
    with pytest.raises(Fault, match="an untrained one"):
        check_trained(replace(expert, weights=zeros))
    with pytest.raises(Fault, match="an untrained one"):
        check_trained(replace(expert, weights=zeros, card=None))
    assert expert.card is not None
    check_trained(replace(expert, weights=zeros, card=expert.card.model_copy(update={"kept_start": True})))


def test_equal_experts_are_refused_unless_one_kept_its_start(folder: Path) -> None:
    expert = read_expert(folder)
    name = next(iter(expert.weights))
    changed = replace(expert, weights=expert.weights | {name: expert.weights[name] + 1e-6})
    check_distinct(expert, changed)
    check_distinct(expert, replace(expert, weights={}))
    with pytest.raises(Fault, match="the same weights in"):
        check_distinct(expert, replace(expert, path=Path("copy")))
    assert expert.card is not None
    check_distinct(expert, replace(expert, card=expert.card.model_copy(update={"kept_start": True})))


def test_card_survives_json(parts: Parts) -> None:
    card = parts[2]
    assert ExpertCard.model_validate(json.loads(json.dumps(card.model_dump(mode="json")))) == card
