"""Claims about folded weights: transformers loads them, and they say what the mixture says when it is pinned there."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import FAMILIES
from corpora import save_language_model
from exports import opened, pinned, pooled
from mixtures import random_lm_mixture, tokenize_texts
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.export.merged_weights import write_merged_weights
from moe.export.selection import ExportSource, single_expert_specs, merged_expert_spec
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts
from moe.model.backbone import BackboneSettings, _keep_as_loaded


def settings_of(source: ExportSource, **over) -> BackboneSettings:
    folder = source.model.backbone.config.name_or_path
    return BackboneSettings(name=folder, dtype="float32", trunk_depth=1).model_copy(update=over)


@pytest.mark.parametrize("family", ["bert", "gpt2", *(pytest.param(one, marks=pytest.mark.slow) for one in FAMILIES)])
def test_folded_weights_say_what_the_mixture_says_pinned(family: str, tmp_path: Path) -> None:
    source = opened(tmp_path, family, shared=True)
    _, state = pinned(source, "news")
    choice = single_expert_specs(source.model, ["news"])[0]
    found = write_merged_weights(tmp_path / "out", source, settings_of(source), choice, quantized=False, overwrite=False)
    assert found == {"name": "news", "heads": True, "dtype": "float32"}
    theirs = pooled(AutoModel.from_pretrained(tmp_path / "out").eval(), source)
    torch.testing.assert_close(theirs, state, atol=1e-5, rtol=1e-5)
    assert AutoTokenizer.from_pretrained(tmp_path / "out")("profit rose")["input_ids"]


def test_a_merge_and_a_shared_expert_alone_fold_too(tmp_path: Path) -> None:
    wanted = {}
    for name in ("shared", "cat"):
        source = opened(tmp_path, shared=True)
        if name == "shared":
            _, state = pinned(source, name)
            choice = single_expert_specs(source.model, [name])[0]
        else:
            with torch.no_grad(), source.model.ablated(uniform_gates=True):
                state = source.model(**tokenize_texts(source.model)).pooled
            choice = merged_expert_spec(source.model, name, None)
        write_merged_weights(tmp_path / name, source, settings_of(source), choice, quantized=False, overwrite=False)
        wanted[name] = (state, pooled(AutoModel.from_pretrained(tmp_path / name).eval(), source))
        (tmp_path / "run").rename(tmp_path / f"run-{name}")
    for ours, theirs in wanted.values():
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=1e-5)


def test_a_language_model_keeps_its_head(tmp_path: Path) -> None:
    model = random_lm_mixture(save_language_model(tmp_path / "model", "llama"))
    source = ExportSource(tmp_path / "team", model, "{text}", 64, None)
    given = tokenize_texts(model)
    with torch.no_grad(), model.single_expert("calls"):
        assert model.loaded_backbone.lm_head is not None
        ours = model.loaded_backbone.lm_head.logits(model(**given).pooled[0])
    choice = single_expert_specs(model, ["calls"])[0]
    found = write_merged_weights(tmp_path / "out", source, settings_of(source), choice, quantized=False, overwrite=False)
    assert not found["heads"]
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()(**given).logits[0]
    own = given["attention_mask"][0].bool()
    torch.testing.assert_close(theirs[own], ours[own], atol=1e-5, rtol=1e-5)
    assert read_json(tmp_path / "out" / "config.json")["use_cache"], "served with its cache"


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_few_bits_become_sixteen_and_fewer_only_when_asked_for(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    far = {}
    for quantized in (False, True):
        source = opened(tmp_path / str(quantized), "bert", quantization=kind)
        _, state = pinned(source, "news")
        choice, out = single_expert_specs(source.model, ["news"])[0], tmp_path / f"out-{quantized}"
        found = write_merged_weights(out, source, settings_of(source, quantization=kind), choice, quantized, overwrite=False)
        assert found["dtype"] == (kind if quantized else "bfloat16")
        assert ("quantization_config" in read_json(out / "config.json")) == quantized
        theirs = AutoModel.from_pretrained(out).eval()
        _keep_as_loaded(theirs)
        far[quantized] = float((pooled(theirs, source) - state).abs().max())
    said = " ".join(capsys.readouterr().err.split())
    assert "folding there would round" in said
    assert "of the update's size" in said
    assert far[False] < 0.05, "what bfloat16 rounds"
    assert far[False] < far[True]
    assert found["lost"] > 0.001


def test_bits_are_not_taken_from_whole_weights(tmp_path: Path) -> None:
    source = opened(tmp_path)
    choice = single_expert_specs(source.model, ["news"])[0]
    with pytest.raises(Fault, match="Leave --quantized out"):
        write_merged_weights(tmp_path / "out", source, settings_of(source), choice, quantized=True, overwrite=False)
    assert not (tmp_path / "out").exists()


def test_the_page_s_code_reads_the_heads_as_the_mixture_does(tmp_path: Path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "export.md").read_text(encoding="utf-8")
    (code,) = [body for body in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "AutoModel" in body]
    source = opened(tmp_path, heads="averaged")
    with source.model.single_expert("news"):
        predictor = Predictor(source.model, source.template, source.max_length)
        (wanted,) = predict_texts(["Profit fell less than feared."], predictor, task="news")
    folder = tmp_path / "runs" / "demo" / "export" / "dense"
    choice = single_expert_specs(source.model, ["news"])[0]
    write_merged_weights(folder, source, settings_of(source), choice, quantized=False, overwrite=False)
    told: dict[str, object] = {}
    with contextlib.chdir(tmp_path), contextlib.redirect_stdout(io.StringIO()):
        exec(compile(code, "export.md", "exec"), told)
    theirs = told["probabilities"]
    assert isinstance(theirs, torch.Tensor)
    np.testing.assert_allclose(theirs[0].numpy(), wanted.probabilities, atol=1e-5)
