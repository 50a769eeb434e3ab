"""Claims about `moe.checkpoints.mixture`: a folder gives back the mixture that wrote it, and nothing else."""

from pathlib import Path

import pytest
import torch
from conftest import Make, save_backbone
from mixtures import save_random_mixture, tokenize_texts

from experts.atomic_io import write_json, write_manifest
from experts.errors import Fault
from experts.safetensors_io import load_tensors, save_tensors
from moe.checkpoints.mixture import (
    CARD,
    HEADS,
    ROUTER,
    load_strictly,
    parse_mixture_card,
    read_card,
    read_mixture,
    write_mixture,
)
from moe.model.backbone import load_backbone


@pytest.fixture
def folder(make_work: Make, tmp_path: Path) -> Path:
    """The folder of a random mixture."""
    work = make_work()
    return save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work)


def test_mixture_folder_gives_back_the_same_weights_and_outputs(folder: Path, tmp_path: Path) -> None:
    before, card = read_mixture(folder)
    with torch.no_grad():
        for tensor in before.trained_state().values():
            tensor.add_(0.1)
    write_mixture(tmp_path / "changed", before, card, "", {})
    after, copied = read_mixture(tmp_path / "changed")
    assert copied == card
    assert all(torch.equal(tensor, after.trained_state()[key]) for key, tensor in before.trained_state().items())
    with torch.no_grad():
        outputs = [model(**tokenize_texts(model)) for model in (before, after)]
    for name, logits in outputs[0].logits.items():
        torch.testing.assert_close(logits, outputs[1].logits[name])


def test_mixture_card_holds_what_its_folder_holds(folder: Path) -> None:
    card = read_card(folder)
    assert {path.name for path in (folder / "experts").iterdir()} == {*card.routed, *card.shared}
    assert card == parse_mixture_card(folder)


@pytest.mark.parametrize("name", [ROUTER, HEADS])
def test_mixture_folder_with_a_tensor_too_few_is_refused(folder: Path, name: str) -> None:
    tensors = load_tensors(folder / name)
    tensors.pop(min(tensors))
    save_tensors(folder / name, tensors)
    write_manifest(folder)
    with pytest.raises(Fault, match=f"tensors in .*{name}.* that fit the model"):
        read_mixture(folder)


def test_mixture_folder_on_another_backbone_is_refused(folder: Path, make_work: Make, tmp_path: Path) -> None:
    work = make_work(backbone={"name": str(save_backbone(tmp_path / "other", seed=1))})
    with pytest.raises(Fault, match="Use the backbone it was trained on"):
        read_mixture(folder, load_backbone(work.run.backbone))


def test_mixture_card_of_a_newer_format_is_refused(folder: Path) -> None:
    card = parse_mixture_card(folder)
    write_json(folder / CARD, card.model_dump(mode="json") | {"format": card.format + 1})
    with pytest.raises(Fault, match="format"):
        parse_mixture_card(folder)


def test_strict_loading_names_the_tensor_that_does_not_fit() -> None:
    with pytest.raises(Fault, match="bias"):
        load_strictly(torch.nn.Linear(2, 2), {"weight": torch.zeros(2, 2)}, Path("heads.safetensors"))
