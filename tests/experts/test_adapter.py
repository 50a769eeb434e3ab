"""Claims about PEFT's configs: what cannot be gated is refused, what can is resolved as PEFT would."""

import json
from pathlib import Path

import pytest
from conftest import tiny_backbone
from peft import LoraConfig, get_peft_model

from experts.adapter import resolve_adapter, read_adapter_config
from experts.errors import Fault
from experts.lora import LayerMap

ODD = {
    "DoRA": {"use_dora": True},
    "a bias": {"bias": "all"},
    "init_lora_weights": {"init_lora_weights": "pissa"},
    "token adapters": {"trainable_token_indices": [1, 2]},
    "modules_to_save": {"modules_to_save": ["pooler"]},
}


def written(folder: Path, **over: object) -> Path:
    """The config of an adapter on disk."""
    config = LoraConfig(r=4, target_modules=["query"], **over)
    config.save_pretrained(str(folder))
    return folder


@pytest.mark.parametrize("named", ODD)
def test_an_update_that_is_no_sum_of_low_rank_terms_is_refused(named: str, tmp_path: Path) -> None:
    layers = LayerMap.from_model(tiny_backbone())
    with pytest.raises(Fault, match=f"a plain LoRA adapter as expert odd.*{named}"):
        read_adapter_config(layers, written(tmp_path, **ODD[named]), "odd")


def test_a_config_that_peft_cannot_read_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path) / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"layers_pattern": "layer", "layers_to_transform": None}))
    with pytest.raises(Fault, match="a LoRA config that PEFT reads"):
        read_adapter_config(LayerMap.from_model(tiny_backbone()), tmp_path, "odd")


def test_the_layers_are_those_that_peft_wraps(family: str) -> None:
    config = LoraConfig(
        r=4, target_modules="all-linear", rank_pattern={".*query": 2}, exclude_modules=[".*dense_h_to_4h"]
    )
    layers = LayerMap.from_model(tiny_backbone(family))
    model = get_peft_model(tiny_backbone(family), config)
    wrapped = {name.removeprefix("base_model.model.") for name, one in model.named_modules() if hasattr(one, "lora_A")}
    assert set(resolve_adapter(layers, model.peft_config["default"]).layers) == wrapped & layers.linear.keys()
