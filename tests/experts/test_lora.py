"""Tests of `experts.lora`: bounds of the settings, and the map of a backbone's linear layers."""

from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from pydantic import ValidationError
from torch import nn

from experts.errors import Fault
from experts.lora import Adapter, LayerMap, LoraSettings, check_trunk_depth, find_layer_stack


@pytest.mark.parametrize(
    "wrong",
    [
        {"r": 0},
        {"r": 65_537},
        {"r": 2.5},
        {"alpha": 0},
        {"alpha": float("nan")},
        {"alpha": float("inf")},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"rank": 4},
    ],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LoraSettings.model_validate(wrong)


def test_adapter_without_dropout_in_its_config_has_none() -> None:
    assert Adapter({}, {}).dropout == 0.0
    assert Adapter({"lora_dropout": 0.25}, {}).dropout == 0.25


def test_layer_map_lists_every_linear_layer_of_the_stack_and_no_other(family: str) -> None:
    backbone = tiny_backbone(family)
    layers = LayerMap.from_model(backbone)
    assert layers.depth == 2
    inside = {
        name
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
    }
    assert layers.linear_layers.keys() == {name for name in inside if name.startswith(f"{layers.stack}.")}
    assert {layers.layer_index(name) for name in layers.linear_layers} == {0, 1}
    for name, module in layers.linear_layers.items():
        assert backbone.get_submodule(name) is module


@pytest.mark.parametrize("depth", [-1, 2, 100])
def test_trunk_that_leaves_no_layer_is_refused_with_the_range(depth: int) -> None:
    layers = LayerMap.from_model(tiny_backbone())
    with pytest.raises(Fault, match=rf"a trunk depth from 0 to 1 \(the backbone has 2 layers\); found {depth}"):
        check_trunk_depth(layers, depth)
    for allowed in (0, 1):
        check_trunk_depth(layers, allowed)


def test_backbone_without_a_stack_of_layers_is_refused() -> None:
    backbone = tiny_backbone()
    backbone.config.num_hidden_layers = 7
    with pytest.raises(Fault, match="a list of 7 layers; found none in BertModel"):
        find_layer_stack(backbone)


def test_backbone_without_linear_layers_in_its_stack_is_refused() -> None:
    backbone = tiny_backbone()
    stack = backbone.get_submodule("encoder")
    stack.layer = nn.ModuleList([nn.LayerNorm(4), nn.LayerNorm(4)])
    with torch.no_grad(), pytest.raises(Fault, match="linear layers to adapt; found none"):
        LayerMap.from_model(backbone)
