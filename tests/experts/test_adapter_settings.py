"""Tests of `experts.adapter_settings`: an adapter computes what PEFT computes from its files, or is refused by name."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import tiny_backbone
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from experts.adapter import read_adapter_config
from experts.adapter_bank import ExpertBank
from experts.adapter_settings import check_adapter_settings
from experts.errors import Fault
from experts.expert_io import read_adapter, read_expert, write_adapter

TOKENS = torch.arange(3, 27).view(2, 12)  # (B, T)
PLAIN = {"r": 4, "lora_alpha": 12, "target_modules": ["query", "value"]}
QUERY = "encoder.layer.1.attention.self.query"

TRAINED: dict[str, list[Any]] = {
    "task_type": ["FEATURE_EXTRACTION"],
    "base_model_name_or_path": ["someone/else"],
    "revision": ["main"],
    "inference_mode": [True],
    "r": [2, 40],
    "lora_alpha": [3, 0.5, -4],
    "lora_dropout": [0.5],
    "target_modules": [["key", "attention.output.dense"], [QUERY], r".*\.layer\.(0|1)\..*(key|value)"],
    "exclude_modules": [["value"], r".*layer\.0\..*"],
    "fan_in_fan_out": [True],
    "bias": ["all", "lora_only"],
    "use_rslora": [True],
    "init_lora_weights": [False, "gaussian", "orthogonal", "pissa", "pissa_niter_2", "olora", "mica"],
    "layers_to_transform": [1, [0]],
    "rank_pattern": [{"value": 2}, {rf"^{QUERY}": 7}, {"layer.0.*query": 3}],
    "alpha_pattern": [{"value": 2}, {rf"^{QUERY}": 7}, {"layer.0.*query": 0.5}],
    "modules_to_save": [["pooler"]],
    "trainable_token_indices": [[1, 2]],
    "use_dora": [True],
    "velora_config": [{"num_groups": 4}],
    "alora_invocation_tokens": [[5, 6]],
    "monteclora_config": [{"num_samples": 2}],
    "layer_replication": [[[0, 2], [1, 2]]],
    "lora_bias": [True],
    "kasa_config": [{}],
    "use_bdlora": [{"target_modules_bd_a": ["query"], "target_modules_bd_b": ["value"], "nblocks": 2}],
    "ensure_weight_tying": [True],
}
"""Values with which PEFT builds an adapter on a tiny BERT."""

WRITTEN: dict[str, list[Any]] = {
    "auto_mapping": [{"base_model_class": "BertModel", "parent_library": "transformers.models.bert.modeling_bert"}],
    "peft_type": ["LOHA"],
    "peft_version": ["0.99.0"],
    "layers_pattern": ["block", ["layer", "h"]],
    "megatron_config": [{"hidden_size": 8}],
    "megatron_core": ["other.core"],
    "loftq_config": [{"loftq_bits": 4}],
    "eva_config": [{"rho": 2.0}],
    "corda_config": [{"corda_method": "ipm"}],
    "lora_ga_config": [{"direction": "ArBr"}],
    "init_lora_weights": ["eva", "corda", "loftq", "lora_ga", "later"],
    "use_qalora": [True],
    "qalora_group_size": [8],
    "runtime_config": [{"ephemeral_gpu_offload": True}],
    "target_parameters": [["encoder.layer.0.attention.self.query.weight"]],
    "arrow_config": [{"top_k": 2}],
}
"""Values that are written into the config of a plain adapter, since PEFT cannot build one with them here."""

REFUSED = {
    *("bias", "modules_to_save", "trainable_token_indices", "use_dora", "velora_config", "alora_invocation_tokens"),
    *("monteclora_config", "layer_replication", "lora_bias", "kasa_config", "use_bdlora", "ensure_weight_tying"),
    *("peft_type", "megatron_config", "loftq_config", "corda_config", "lora_ga_config", "use_qalora"),
    *("target_parameters", "arrow_config"),
}
REFUSED_VALUES = {"pissa", "pissa_niter_2", "olora", "mica", "corda", "loftq", "lora_ga", "later"}


def save_adapter(folder: Path, backbone: PreTrainedModel, **settings: Any) -> Path:
    """Save a PEFT adapter with random weights, without a mark of training beyond that, and return its folder."""
    model = get_peft_model(backbone, LoraConfig(**PLAIN | settings))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    model.save_pretrained(str(folder))
    return folder


def write_setting(folder: Path, **settings: Any) -> Path:
    """Change the adapter's config on disk and return the folder."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@torch.no_grad()
def peft_states(folder: Path, backbone: PreTrainedModel) -> Tensor:
    """Return the last hidden states with PEFT's own model of the adapter, (B, T, D)."""
    model = PeftModel.from_pretrained(backbone, str(folder)).eval()
    states: Tensor = model(input_ids=TOKENS, output_hidden_states=True).hidden_states[-1]
    return states


@torch.no_grad()
def own_states(folder: Path, backbone: PreTrainedModel) -> Tensor:
    """Return the last hidden states with a bank that holds the adapter, (B, T, D)."""
    expert, bank = read_expert(folder), ExpertBank(backbone)
    bank.add_adapter("odd", read_adapter_config(bank.layer_map, folder))
    bank.load_adapter("odd", expert.weights)
    bank.set_adapter("odd")
    states: Tensor = backbone(input_ids=TOKENS).last_hidden_state
    return states


def check_equal_or_refused(folder: Path, field: str, refused: bool) -> None:
    """Check that the folder is refused with the field's name, or that it computes what PEFT computes."""
    if refused:
        with pytest.raises(Fault, match=field):
            read_adapter(folder)
        with pytest.raises(Fault, match=field):
            read_adapter_config(ExpertBank(tiny_backbone()).layer_map, folder)
        return
    expected, plain = peft_states(folder, tiny_backbone()), tiny_backbone()(input_ids=TOKENS).last_hidden_state
    assert (expected - plain).abs().max() > 1e-3
    assert (own_states(folder, tiny_backbone()) - expected).abs().max() < 1e-5


def cases(values: Mapping[str, list[Any]]) -> list[Any]:
    """Return a parameter for each field and value."""
    return [pytest.param(field, value, id=f"{field}-{i}") for field in values for i, value in enumerate(values[field])]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("field", "value"), cases(TRAINED))
def test_adapter_setting_trained_with_peft_is_computed_or_refused(field: str, value: Any, tmp_path: Path) -> None:
    folder = save_adapter(tmp_path, tiny_backbone(), **{field: value})
    check_equal_or_refused(folder, field, field in REFUSED or value in list(REFUSED_VALUES))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("field", "value"), cases(WRITTEN))
def test_adapter_setting_written_to_a_config_is_computed_or_refused(field: str, value: Any, tmp_path: Path) -> None:
    settings = {"layers_to_transform": [0, 1]} if field == "layers_pattern" else {}
    folder = write_setting(save_adapter(tmp_path, tiny_backbone(), **settings), **{field: value})
    if field == "layers_pattern" and value == "block":
        with pytest.raises(Fault, match="linear layers of BertModel"):
            own_states(folder, tiny_backbone())
    else:
        check_equal_or_refused(folder, field, field in REFUSED or value in list(REFUSED_VALUES))


def test_adapter_settings_of_the_installed_peft_are_all_tested() -> None:
    fields = {field.name for field in dataclasses.fields(LoraConfig)}
    assert fields == TRAINED.keys() | WRITTEN.keys()


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind != PeftType.LORA])
def test_adapter_of_another_method_is_refused_with_its_type(kind: str, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=f"a LoRA adapter.*peft_type '{kind}'"):
        check_adapter_settings({"peft_type": kind, "target_modules": ["query"]}, tmp_path)


@pytest.mark.parametrize("value", [True, 1, 0.5, "on", [1], {"a": 1}])
def test_adapter_setting_that_is_unknown_is_refused_if_it_has_a_value(value: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="later_method="):
        check_adapter_settings({"peft_type": "LORA", **PLAIN, "later_method": value}, tmp_path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("value", [None, False, "", [], {}])
def test_adapter_setting_that_is_unknown_is_ignored_without_a_value(value: Any, tmp_path: Path) -> None:
    save_adapter(tmp_path, tiny_backbone())
    check_equal_or_refused(write_setting(tmp_path, later_method=value), "", refused=False)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0),
        ("r", 10**30),
        ("r", "4"),
        ("r", True),
        ("r", None),
        ("lora_alpha", float("nan")),
        ("lora_alpha", float("inf")),
        ("lora_alpha", "8"),
        ("lora_dropout", 1.0),
        ("lora_dropout", -0.1),
        ("use_rslora", "yes"),
        ("target_modules", None),
        ("target_modules", 3),
        ("target_modules", [3]),
        ("target_modules", "(query"),
        ("exclude_modules", "(?P<x"),
        ("layers_pattern", "(layer"),
        ("layers_to_transform", "1"),
        ("layers_to_transform", [0.5]),
        ("rank_pattern", {"query": 0}),
        ("rank_pattern", {"(?i)query": 3}),
        ("rank_pattern", ["query"]),
        ("alpha_pattern", {"query": None}),
    ],
)
def test_adapter_setting_of_a_wrong_type_or_size_is_refused(field: str, value: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=rf"{field}|regular expressions"):
        check_adapter_settings({"peft_type": "LORA", **PLAIN, field: value}, tmp_path)


@pytest.mark.parametrize("content", [[], "x", None, 3, {}])
def test_adapter_config_that_is_no_object_of_settings_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(Fault, match="adapter"):
        check_adapter_settings(content, tmp_path)


@pytest.mark.parametrize(
    "settings",
    [
        {"alpha_pattern": {rf"^bert\.{QUERY}": 40}},
        {"rank_pattern": {rf"bert\.{QUERY}": 2}, "use_rslora": True, "alpha_pattern": {"value": 3}},
        {"target_modules": rf"bert\.{QUERY}"},
        {"exclude_modules": [f"bert.{QUERY}"], "layers_to_transform": [1], "layers_pattern": "bert.encoder.layer"},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_adapter_of_a_model_with_a_head_resolves_patterns_on_that_models_names(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    def with_head() -> PreTrainedModel:
        model = AutoModelForSequenceClassification.from_config(tiny_backbone().config)
        model.bert.load_state_dict(tiny_backbone().state_dict(), strict=False)
        return model.eval()

    folder = save_adapter(tmp_path, with_head(), **settings)
    expected = peft_states(folder, with_head())
    assert (own_states(folder, tiny_backbone()) - expected).abs().max() < 1e-5
    bank = ExpertBank(tiny_backbone())
    adapter = read_adapter_config(bank.layer_map, folder)
    again = tmp_path / "again"
    again.mkdir()
    bank.add_adapter("odd", adapter)
    bank.load_adapter("odd", read_adapter(folder)[1])
    write_adapter(again, adapter, bank.peft_state_dict("odd"))
    assert (peft_states(again, tiny_backbone()) - expected).abs().max() < 1e-5
