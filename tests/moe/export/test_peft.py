"""Tests of exported adapters: PEFT loads them, and they match the mixture restricted to the same experts."""

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES
from corpora import save_language_model
from exports import pinned_outputs, pooled_output, save_and_load_mixture
from mixtures import random_lm_mixture, tokenize_texts
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from experts.json_io import to_json
from moe.export.peft import check_vllm_rules, write_adapters
from moe.export.selection import ExportSource, merged_expert_spec, single_expert_specs
from moe.model.mode import RoutingMode


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A mixture with a trunk, a shared expert, experts of different ranks and one head per expert."""
    return save_and_load_mixture(tmp_path_factory.mktemp("adapters"), shared=True)


@pytest.fixture(scope="module")
def exported(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All its experts and a merge as adapters."""
    out = tmp_path_factory.mktemp("out") / "peft"
    specs = [*single_expert_specs(source.model, ()), merged_expert_spec(source.model, "ties", "news=0.7,forum=0.3")]
    write_adapters(out, source, specs, overwrite=False)
    return out


def load_with_peft(source: ExportSource, folder: Path) -> PeftModel:
    backbone = AutoModel.from_pretrained(source.model.loaded_backbone.id.name)
    return PeftModel.from_pretrained(backbone, folder).eval()


@pytest.mark.parametrize("name", ["news", "forum", "shared"])
def test_exported_adapter_matches_the_mixture_restricted_to_it(source: ExportSource, exported: Path, name: str) -> None:
    logits, expected = pinned_outputs(source, name)
    pooled = pooled_output(load_with_peft(source, exported / name), source)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)
    if name == "shared":
        assert not (exported / name / "heads.safetensors").exists(), "each domain expert has its own heads"
        return
    spec = read_json(exported / name / "reading.json")
    tensors = load_file(exported / name / "heads.safetensors")
    head = spec["heads"][spec["tasks"]["news"]["head"]]
    exported_logits = pooled @ tensors[f"{head}.1.weight"].T + tensors[f"{head}.1.bias"]
    torch.testing.assert_close(exported_logits, next(iter(logits.values())), atol=1e-4, rtol=1e-4)


def test_exported_adapter_has_no_patterns_and_covers_every_layer(source: ExportSource, exported: Path) -> None:
    check_manifest(exported, "an export")
    for folder in (path for path in exported.iterdir() if path.is_dir()):
        config = read_json(folder / "adapter_config.json")
        assert not any(config.get(name) for name in ("rank_pattern", "alpha_pattern", "use_rslora"))
        assert check_vllm_rules(folder) == []
        tensors = load_file(folder / "adapter_model.safetensors")
        for layer in range(source.model.bank.layer_map.depth):
            assert any(f".{layer}." in name for name in tensors), "LoRAX loads a kind of layer in all layers or in none"
        trunk = [tensor for name, tensor in tensors.items() if ".0." in name]
        assert not any(tensor.any() for tensor in trunk)


def test_cat_merge_matches_uniform_gates(source: ExportSource, tmp_path: Path) -> None:
    write_adapters(tmp_path / "out", source, [merged_expert_spec(source.model, "cat", None)], overwrite=False)
    with torch.no_grad():
        expected = source.model(**tokenize_texts(source.model), mode=RoutingMode(uniform_gates=True)).pooled
    pooled = pooled_output(load_with_peft(source, tmp_path / "out" / "merged-cat"), source)
    torch.testing.assert_close(pooled, expected, atol=1e-5, rtol=1e-5)


def test_language_model_adapter_matches_and_reports_vllm_options(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    source = ExportSource(tmp_path / "team", model, "{text}", 64, None)
    reports = write_adapters(tmp_path / "out", source, single_expert_specs(model, ["calls"]), overwrite=False)
    assert to_json(reports) == [
        {"name": "calls", "rank": 4, "layers": 14, "heads": False, "vllm": [], "max_lora_rank": 8},
    ]
    assert "--max-lora-rank 8" in (tmp_path / "out" / "calls" / "README.md").read_text()
    inputs = tokenize_texts(model)
    with torch.no_grad(), model.single_expert("calls") as mode:
        assert model.loaded_backbone.lm_head is not None
        expected = model.loaded_backbone.lm_head.logits(model(**inputs, mode=mode).pooled[0])
    backbone = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    loaded = PeftModel.from_pretrained(backbone, tmp_path / "out/calls")
    with torch.no_grad():
        exported_logits = loaded(**inputs).logits[0]
    mask = inputs["attention_mask"][0].bool()
    torch.testing.assert_close(exported_logits[mask], expected[mask], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_exported_adapter_matches_in_every_backbone_family(family: str, tmp_path: Path) -> None:
    source = save_and_load_mixture(tmp_path, family, shared=True)
    write_adapters(tmp_path / "out", source, single_expert_specs(source.model, ["forum"]), overwrite=False)
    pooled = pooled_output(load_with_peft(source, tmp_path / "out" / "forum"), source)
    torch.testing.assert_close(pooled, pinned_outputs(source, "forum")[1], atol=1e-5, rtol=1e-5)


INVALID = [
    (["linear", "news=0.7,forom=0.3"], "Did you mean forum"),
    (["linear", "news=0.7"], "two or more experts"),
    (["linear", "news=0.7,forum=much"], "number"),
    (["linear", "news=0.7,forum=-1"], "above 0"),
    (["linear", "news=nan,forum=1"], "above 0"),
    (["slerp", None], "a merge method among"),
    (["linear", None, 0.5], "density"),
    (["ties", None, 1.5], "density"),
    (["ties", None, None, 4], "rank"),
]


@pytest.mark.parametrize(("arguments", "message"), INVALID)
def test_merged_expert_spec_rejects_invalid_options(source: ExportSource, arguments: list, message: str) -> None:
    with pytest.raises(Fault, match=message):
        merged_expert_spec(source.model, *arguments)


def test_single_expert_specs_reject_an_unknown_expert(source: ExportSource) -> None:
    with pytest.raises(Fault, match="Did you mean news"):
        single_expert_specs(source.model, ["newz"])
