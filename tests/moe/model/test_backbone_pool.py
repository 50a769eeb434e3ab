"""Tests of backbones that share their weights: one copy in memory, layers of their own, equal outputs."""

import gc
from pathlib import Path

import torch
from conftest import save_backbone

from experts.lora import LayerMap
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.backbone_pool import BackbonePool

IDS = torch.tensor([[1, 4, 5, 2]])


def pointers(backbone: Backbone) -> dict[str, int]:
    return {name: tensor.untyped_storage().data_ptr() for name, tensor in backbone.model.state_dict().items()}


def outputs(backbone: Backbone) -> torch.Tensor:
    with torch.no_grad():
        return backbone.model(input_ids=IDS).last_hidden_state


def test_pool_loads_the_weights_of_a_backbone_once(tmp_path: Path) -> None:
    settings, pool = BackboneSettings(name=str(save_backbone(tmp_path)), dtype="float32"), BackbonePool()
    first, second = pool.load(settings), pool.load(settings.model_copy(update={"max_length": 16, "dropout": 0.2}))
    assert pointers(first) == pointers(second)
    alone = load_backbone(settings)
    assert not set(pointers(alone).values()) & set(pointers(first).values())
    for backbone in (first, second):
        torch.testing.assert_close(outputs(backbone), outputs(alone), rtol=0, atol=0)


def test_layers_of_one_user_of_the_pool_are_not_those_of_another(tmp_path: Path) -> None:
    settings, pool = BackboneSettings(name=str(save_backbone(tmp_path)), dtype="float32"), BackbonePool()
    first, second = pool.load(settings), pool.load(settings)
    expected = outputs(second)
    path = next(iter(LayerMap.from_model(first.model).linear_layers))
    parent, _, name = path.rpartition(".")
    setattr(first.model.get_submodule(parent), name, torch.nn.Identity())
    torch.testing.assert_close(outputs(second), expected, rtol=0, atol=0)
    torch.testing.assert_close(outputs(pool.load(settings)), expected, rtol=0, atol=0)


def test_pool_distinguishes_precisions_and_changed_files(tmp_path: Path) -> None:
    folder, pool = save_backbone(tmp_path), BackbonePool()
    settings = BackboneSettings(name=str(folder), dtype="float32")
    first, other = pool.load(settings), pool.load(settings.model_copy(update={"dtype": "bfloat16"}))
    assert other.model.dtype == torch.bfloat16
    changed = load_backbone(settings).model
    with torch.no_grad():
        next(changed.parameters()).add_(1.0)
    changed.save_pretrained(folder)
    again = pool.load(settings)
    assert again.id.sha256 != first.id.sha256
    assert not set(pointers(again).values()) & set(pointers(first).values())


def test_pool_frees_weights_that_no_model_uses(tmp_path: Path) -> None:
    settings, pool = BackboneSettings(name=str(save_backbone(tmp_path)), dtype="float32"), BackbonePool()
    backbone = pool.load(settings)
    assert len(pool._loaded) == 1
    del backbone
    gc.collect()
    assert not pool._loaded
