"""Tests of `experts.adapter`: adapters are resolved as PEFT would."""

import json
from pathlib import Path

import pytest
from conftest import tiny_backbone
from peft import LoraConfig, get_peft_model

from experts.adapter import read_adapter_config, resolve_adapter
from experts.errors import Fault
from experts.lora import LayerMap


def save_config(folder: Path) -> Path:
    """Save a PEFT adapter config and return its folder."""
    config = LoraConfig(r=4, target_modules=["query"])
    config.save_pretrained(str(folder))
    return folder


def test_adapter_config_that_peft_cannot_read_is_a_fault(tmp_path: Path) -> None:
    path = save_config(tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_pattern": "layer", "layers_to_transform": None}))
    with pytest.raises(Fault, match="a LoRA config that PEFT can read"):
        read_adapter_config(LayerMap.from_model(tiny_backbone()), tmp_path)


def test_resolved_adapter_has_the_layers_that_peft_wraps(family: str) -> None:
    layers = LayerMap.from_model(tiny_backbone(family))
    names = sorted({path.rsplit(".", 1)[-1] for path in layers.linear_layers})
    config = LoraConfig(
        r=4,
        target_modules="all-linear",
        rank_pattern={names[-1]: 2},
        exclude_modules=names[:1],
        fan_in_fan_out=family == "gpt2",
    )
    model = get_peft_model(tiny_backbone(family), config)
    ranks = {
        name.removeprefix("base_model.model."): module.r["default"]
        for name, module in model.named_modules()
        if hasattr(module, "lora_A")
    }
    adapter = resolve_adapter(layers, model.peft_config["default"])
    assert {path: spec.rank for path, spec in adapter.layers.items()} == {
        path: rank for path, rank in ranks.items() if path in layers.linear_layers
    }
    assert set(ranks.values()) == {2, 4}
