"""Claims about exported adapters: PEFT loads them, and they say what the mixture says when it is pinned there."""

from pathlib import Path

import pytest
import torch
from conftest import FAMILIES
from corpora import save_language_model
from exports import opened, pinned, pooled
from mixtures import random_lm_mixture, tokenize_texts
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM

from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from moe.export.peft import check_vllm_rules, write_adapters
from moe.export.selection import ExportSource, single_expert_specs, merged_expert_spec


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A mixture with a shared expert, a trunk, experts of unlike rank and heads of their own."""
    return opened(tmp_path_factory.mktemp("adapters"), shared=True)


@pytest.fixture(scope="module")
def exported(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All its experts, and a merge, as adapters."""
    out = tmp_path_factory.mktemp("out") / "peft"
    choices = [*single_expert_specs(source.model, ()), merged_expert_spec(source.model, "ties", "news=0.7,forum=0.3")]
    write_adapters(out, source, choices, overwrite=False)
    return out


def loaded(source: ExportSource, folder: Path) -> PeftModel:
    backbone = AutoModel.from_pretrained(source.model.backbone.config.name_or_path)
    return PeftModel.from_pretrained(backbone, folder).eval()


@pytest.mark.parametrize("name", ["news", "forum", "shared"])
def test_backbone_and_adapter_say_what_the_mixture_says_pinned(source: ExportSource, exported: Path, name: str) -> None:
    logits, state = pinned(source, name)
    theirs = pooled(loaded(source, exported / name), source)
    torch.testing.assert_close(theirs, state, atol=1e-5, rtol=1e-5)
    if name == "shared":
        assert not (exported / name / "heads.safetensors").exists(), "every expert has heads of its own"
        return
    reading = read_json(exported / name / "reading.json")
    tensors = load_file(exported / name / "heads.safetensors")
    where = reading["heads"][reading["tasks"]["news"]["head"]]
    told = theirs @ tensors[f"{where}.1.weight"].T + tensors[f"{where}.1.bias"]
    torch.testing.assert_close(told, next(iter(logits.values())), atol=1e-4, rtol=1e-4)


def test_an_adapter_is_plain_and_in_every_layer(source: ExportSource, exported: Path) -> None:
    check_manifest(exported, "an export")
    for folder in (one for one in exported.iterdir() if one.is_dir()):
        config = read_json(folder / "adapter_config.json")
        assert not any(config.get(name) for name in ("rank_pattern", "alpha_pattern", "use_rslora"))
        assert check_vllm_rules(folder) == []
        names = load_file(folder / "adapter_model.safetensors")
        for layer in range(source.model.bank.layer_map.depth):
            assert any(f".{layer}." in name for name in names), "LoRAX reads a kind of layer in all layers or in none"
        trunk = [tensor for name, tensor in names.items() if ".0." in name]
        assert not any(tensor.any() for tensor in trunk)


def test_cat_is_what_equal_gates_do(source: ExportSource, tmp_path: Path) -> None:
    write_adapters(tmp_path / "out", source, [merged_expert_spec(source.model, "cat", None)], overwrite=False)
    with torch.no_grad(), source.model.ablated(uniform_gates=True):
        wanted = source.model(**tokenize_texts(source.model)).pooled
    theirs = pooled(loaded(source, tmp_path / "out" / "merged-cat"), source)
    torch.testing.assert_close(theirs, wanted, atol=1e-5, rtol=1e-5)


def test_a_language_model_s_experts_load_beside_its_head(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    source = ExportSource(tmp_path / "team", model, "{text}", 64, None)
    found = write_adapters(tmp_path / "out", source, single_expert_specs(model, ["calls"]), overwrite=False)
    assert found == [
        {"name": "calls", "rank": 4, "layers": 14, "heads": False, "vllm": [], "max_lora_rank": 8},
    ]
    assert "--max-lora-rank 8" in (tmp_path / "out" / "calls" / "README.md").read_text()
    given = tokenize_texts(model)
    with torch.no_grad(), model.single_expert("calls"):
        assert model.loaded_backbone.lm_head is not None
        ours = model.loaded_backbone.lm_head.logits(model(**given).pooled[0])
    whole = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "model"), tmp_path / "out/calls")
    with torch.no_grad():
        theirs = whole(**given).logits[0]
    own = given["attention_mask"][0].bool()
    torch.testing.assert_close(theirs[own], ours[own], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_it_holds_in_every_family(family: str, tmp_path: Path) -> None:
    source = opened(tmp_path, family, shared=True)
    write_adapters(tmp_path / "out", source, single_expert_specs(source.model, ["forum"]), overwrite=False)
    theirs = pooled(loaded(source, tmp_path / "out" / "forum"), source)
    torch.testing.assert_close(theirs, pinned(source, "forum")[1], atol=1e-5, rtol=1e-5)


BAD = [
    (["linear", "news=0.7,forom=0.3"], "Did you mean forum"),
    (["linear", "news=0.7"], "two experts or more"),
    (["linear", "news=0.7,forum=much"], "number"),
    (["linear", "news=0.7,forum=-1"], "above 0"),
    (["linear", "news=nan,forum=1"], "above 0"),
    (["slerp", None], "a merge method among"),
    (["linear", None, 0.5], "density"),
    (["ties", None, 1.5], "density"),
    (["ties", None, None, 4], "rank"),
]


@pytest.mark.parametrize(("how", "said"), BAD)
def test_what_cannot_be_merged_is_refused(source: ExportSource, how: list, said: str) -> None:
    with pytest.raises(Fault, match=said):
        merged_expert_spec(source.model, *how)


def test_an_unknown_expert_is_refused(source: ExportSource) -> None:
    with pytest.raises(Fault, match="Did you mean news"):
        single_expert_specs(source.model, ["newz"])
