"""Tests of merged weights: transformers loads them, and they match the mixture restricted to the same experts."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from corpora import save_language_model
from exports import pinned_outputs, pooled_output, save_and_load_mixture
from mixtures import random_lm_mixture, tokenize_texts
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from experts.atomic_io import read_json
from experts.errors import Fault
from experts.json_io import to_json
from moe.export.merged_weights import write_merged_weights
from moe.export.selection import ExportSource, merged_expert_spec, single_expert_specs
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings
from moe.model.backbone_ops import prevent_repacking
from moe.model.mode import RoutingMode


def settings_of(source: ExportSource, **changes) -> BackboneSettings:
    folder = source.model.loaded_backbone.id.name
    return BackboneSettings(name=folder, dtype="float32", trunk_depth=1).model_copy(update=changes)


@pytest.mark.parametrize(
    "family", ["bert", "gpt2", *(pytest.param(family, marks=pytest.mark.slow) for family in FAMILIES)]
)
def test_merged_weights_match_the_mixture_restricted_to_one_expert(family: str, tmp_path: Path) -> None:
    source = save_and_load_mixture(tmp_path, family, shared=True)
    _, expected = pinned_outputs(source, "news")
    spec = single_expert_specs(source.model, ["news"])[0]
    report = write_merged_weights(tmp_path / "out", source, settings_of(source), spec, quantized=False, overwrite=False)
    assert to_json(report) == {"name": "news", "heads": True, "dtype": "float32"}
    exported = pooled_output(AutoModel.from_pretrained(tmp_path / "out").eval(), source)
    torch.testing.assert_close(exported, expected, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("profit rose")["input_ids"]


def test_merged_weights_match_for_a_cat_merge_and_a_shared_expert(tmp_path: Path) -> None:
    pairs = {}
    for name in ("shared", "cat"):
        source = save_and_load_mixture(tmp_path, shared=True)
        if name == "shared":
            _, expected = pinned_outputs(source, name)
            spec = single_expert_specs(source.model, [name])[0]
        else:
            with torch.no_grad():
                expected = source.model(**tokenize_texts(source.model), mode=RoutingMode(uniform_gates=True)).pooled
            spec = merged_expert_spec(source.model, name, None)
        write_merged_weights(tmp_path / name, source, settings_of(source), spec, quantized=False, overwrite=False)
        pairs[name] = (expected, pooled_output(AutoModel.from_pretrained(tmp_path / name).eval(), source))
        (tmp_path / "run").rename(tmp_path / f"run-{name}")
    for expected, exported in pairs.values():
        torch.testing.assert_close(exported, expected, atol=1e-5, rtol=1e-5)


def test_merged_language_model_includes_its_lm_head(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    source = ExportSource(tmp_path / "team", model, "{text}", 64, None)
    inputs = tokenize_texts(model)
    with torch.no_grad(), model.single_expert("calls") as mode:
        assert model.loaded_backbone.lm_head is not None
        expected = model.loaded_backbone.lm_head.logits(model(**inputs, mode=mode).pooled[0])
    spec = single_expert_specs(model, ["calls"])[0]
    report = write_merged_weights(tmp_path / "out", source, settings_of(source), spec, quantized=False, overwrite=False)
    assert not report.heads
    with torch.no_grad():
        exported = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(**inputs).logits[0]
    mask = inputs["attention_mask"][0].bool()
    torch.testing.assert_close(exported[mask], expected[mask], atol=1e-5, rtol=1e-5)
    assert read_json(tmp_path / "out" / "config.json")["use_cache"], "inference uses the KV cache"


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_backbone_is_merged_in_16_bits_unless_requested_otherwise(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    largest = {}
    for quantized in (False, True):
        source = save_and_load_mixture(tmp_path / str(quantized), "bert", quantization=kind)
        _, expected = pinned_outputs(source, "news")
        spec, out = single_expert_specs(source.model, ["news"])[0], tmp_path / f"out-{quantized}"
        settings = settings_of(source, quantization=kind)
        report = write_merged_weights(out, source, settings, spec, quantized=quantized, overwrite=False)
        assert report.dtype == (kind if quantized else "bfloat16")
        assert ("quantization_config" in read_json(out / "config.json")) == quantized
        exported = AutoModel.from_pretrained(out).eval()
        prevent_repacking(exported)
        largest[quantized] = float((pooled_output(exported, source) - expected).abs().max())
    messages = " ".join(capsys.readouterr().err.split())
    assert "the merged weights have 16 bits" in messages
    assert "of the update's norm" in messages
    assert largest[False] < 0.05, "rounding to bfloat16"
    assert largest[False] < largest[True]
    assert report.lost > 0.001


def test_quantized_option_needs_a_quantized_backbone(tmp_path: Path) -> None:
    source = save_and_load_mixture(tmp_path)
    spec = single_expert_specs(source.model, ["news"])[0]
    with pytest.raises(Fault, match="Omit --quantized"):
        write_merged_weights(tmp_path / "out", source, settings_of(source), spec, quantized=True, overwrite=False)
    assert not (tmp_path / "out").exists()


def test_documented_code_applies_the_heads_as_the_mixture_does(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "AutoModel" in block]
    source = save_and_load_mixture(tmp_path, heads="averaged")
    with source.model.single_expert("news") as mode:
        predictor = TorchPredictor(source.model, source.template, source.max_length, mode=mode)
        (expected,) = predict_texts(["Profit fell less than feared."], predictor, task="news")
    folder = tmp_path / "runs" / "demo" / "export" / "dense"
    spec = single_expert_specs(source.model, ["news"])[0]
    write_merged_weights(folder, source, settings_of(source), spec, quantized=False, overwrite=False)
    variables: dict[str, object] = {}
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "export.md", "exec"), variables)
    probabilities = variables["probabilities"]
    assert isinstance(probabilities, torch.Tensor)
    np.testing.assert_allclose(probabilities[0].numpy(), expected.probabilities, atol=1e-5)
