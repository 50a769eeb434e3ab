"""Tests of adapters with a classification head: PEFT's sequence classification loads them and gives the same logits."""

import json
from pathlib import Path

import pytest
import torch
from conftest import DECODERS
from exports import pinned_outputs, save_and_load_mixture
from mixtures import tokenize_texts
from peft import AutoPeftModelForSequenceClassification

from experts.atomic_io import check_manifest, read_json
from experts.errors import Fault
from experts.json_io import to_json
from experts.safetensors_io import load_tensors
from moe.export.export import ExportRequest, export
from moe.export.selection import ExportSource, merged_expert_spec, single_expert_specs
from moe.export.vllm_classifier import write_classifiers
from moe.export.vllm_rules import find_violations
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.model.heads import HeadSettings

PLAIN = HeadSettings(bias=False)


def exported_logits(source: ExportSource, folder: Path, monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Logits of the export (B, K) with PEFT; the adapter names its backbone by the last part of its folder."""
    monkeypatch.chdir(Path(source.model.loaded_backbone.id.name).parent)
    pad = source.model.loaded_backbone.tokenizer.pad_token_id
    loaded = AutoPeftModelForSequenceClassification.from_pretrained(folder, num_labels=3, pad_token_id=pad).eval()
    with torch.no_grad():
        logits: torch.Tensor = loaded(**tokenize_texts(source.model)).logits
    return logits


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=() if name in ("llama", "gpt2") else pytest.mark.slow) for name in DECODERS]
)
def test_peft_loads_the_export_and_gives_the_same_logits(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_and_load_mixture(tmp_path, family, shared=True, heads=PLAIN, pooling="last")
    write_classifiers(tmp_path / "out", source, single_expert_specs(source.model, ["news", "forum"]), overwrite=False)
    check_manifest(tmp_path / "out", "an export")
    for name in ("news", "forum"):
        (expected,) = pinned_outputs(source, name)[0].values()
        logits = exported_logits(source, tmp_path / "out" / name, monkeypatch)
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    return save_and_load_mixture(tmp_path_factory.mktemp("llama"), "llama", shared=True, heads=PLAIN, pooling="last")


def test_export_is_in_the_layout_of_peft_and_fits_vllm(source: ExportSource, tmp_path: Path) -> None:
    report = write_classifiers(tmp_path / "out", source, single_expert_specs(source.model, ()), overwrite=False)
    assert to_json(report)["classifiers"][0] == {
        "name": "news",
        "task": "news",
        "labels": ["negative", "neutral", "positive"],
        "rank": 9,
        "vllm": [],
        "max_lora_rank": 16,
    }
    assert [classifier.name for classifier in report.classifiers] == ["news", "forum"], "shared has no head of its own"
    folder = tmp_path / "out" / "news"
    config, tensors = read_json(folder / "adapter_config.json"), load_tensors(folder / "adapter_model.safetensors")
    assert (config["task_type"], config["modules_to_save"]) == ("SEQ_CLS", ["score"])
    assert tensors["base_model.model.score.weight"].shape == (3, 32)
    assert all(name.startswith("base_model.model.model.layers.") for name in tensors if "score" not in name)
    assert str(tmp_path) not in json.dumps(config)
    assert "--max-lora-rank 16" in (folder / "README.md").read_text()


def test_head_of_a_merge_is_the_mean_of_its_experts_heads(source: ExportSource, tmp_path: Path) -> None:
    specs = [*single_expert_specs(source.model, ["news", "forum"]), merged_expert_spec(source.model, "cat", None)]
    write_classifiers(tmp_path / "out", source, specs, overwrite=False)
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if path.is_dir())
    assert names == ["forum", "merged-cat-forum", "merged-cat-news", "news"]
    heads = {
        name: load_tensors(tmp_path / "out" / name / "adapter_model.safetensors")["base_model.model.score.weight"]
        for name in names
    }
    torch.testing.assert_close(heads["merged-cat-news"], (heads["news"] + heads["forum"]) / 2)


def test_temperature_is_part_of_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = save_and_load_mixture(tmp_path, "llama", heads=PLAIN, pooling="last")
    write_calibration(source.folder, {"news": TaskCalibration(temperature=2.0, rows=10, curve=())})
    export(ExportRequest(source.folder, "vllm", tmp_path / "out", experts=("news",)))
    (expected,) = pinned_outputs(source, "news")[0].values()
    logits = exported_logits(source, tmp_path / "out" / "news", monkeypatch)
    torch.testing.assert_close(logits, expected / 2, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "pooling", "heads", "message"),
    [
        ("bert", "last", PLAIN, "the family bert"),
        ("llama", "mean", PLAIN, "pooling: last"),
        ("llama", "last", HeadSettings(), "heads.bias: false"),
        ("llama", "last", HeadSettings(kind="mlp"), "heads.kind: linear"),
    ],
)
def test_model_that_such_a_classifier_cannot_compute_is_rejected(
    family: str, pooling: str, heads: HeadSettings, message: str, tmp_path: Path
) -> None:
    source = save_and_load_mixture(tmp_path, family, heads=heads, pooling=pooling)
    with pytest.raises(Fault, match=message):
        write_classifiers(tmp_path / "out", source, single_expert_specs(source.model, ()), overwrite=False)
    assert not (tmp_path / "out").exists()


def test_heads_without_bias_are_linear() -> None:
    with pytest.raises(ValueError, match="kind linear"):
        HeadSettings(kind="mlp", bias=False)


def test_vllm_rules_accept_only_the_head_of_a_sequence_classifier() -> None:
    layer = "base_model.model.model.layers.0.self_attn.q_proj"
    shapes = {f"{layer}.lora_A.weight": (4, 32), f"{layer}.lora_B.weight": (32, 4)}
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "modules_to_save": ["score"]}
    classifier = config | {"task_type": "SEQ_CLS"}
    head = {"base_model.model.score.weight": (3, 32)}
    assert find_violations(classifier, shapes | head) == []
    assert any("score.weight is missing" in rule for rule in find_violations(classifier, shapes))
    assert any("modules_to_save" in rule for rule in find_violations(config, shapes | head))
    both = classifier | {"modules_to_save": ["score", "lm_head"]}
    assert any("modules_to_save" in rule for rule in find_violations(both, shapes | head))
