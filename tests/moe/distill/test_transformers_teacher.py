"""A sequence classifier of transformers as a teacher: equal answers, truncation, and models that are refused."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FAMILIES, LABELS, made_up_rows, save_backbone, tiny_tokenizer
from hub_stand_in import running_hub
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel

from experts.errors import Fault
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.request import TaskRequest
from moe.distill.teacher import load_teacher
from moe.model import device

TEXTS = [row["text"] for row in made_up_rows("news", count=30)]
TEXTS[3] = " ".join(TEXTS)  # longer than the model's positions
REQUEST = TaskRequest(domain="news", task="news", labels=LABELS, scored=True)


@pytest.fixture(autouse=True)
def full_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Teachers compute in fp32, also on a CPU that is fast in bfloat16."""
    monkeypatch.setattr(device, "has_fast_bfloat16", lambda _: False)


def save_classifier(folder: Path, family: str = "bert", **config: Any) -> PreTrainedModel:
    """Save a random classifier with its tokenizer, and return it."""
    torch.manual_seed(0)
    settings = {"num_labels": 3, "vocab_size": 99, "torch_dtype": "float32"} | FAMILIES[family] | config
    model: PreTrainedModel = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(family, **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.eval().save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return model


NAMED = {"id2label": {0: "Positive", 1: "Negative", 2: "Neutral"}}


def answers(folder: Path, request: TaskRequest = REQUEST, **settings: object) -> SoftLabels:
    """The soft labels of a classifier on the CPU."""
    teacher = load_teacher(TeacherSettings.model_validate({"model": str(folder)} | settings), device="cpu")
    return teacher.answer(TEXTS, request)


def expected_logits(model: PreTrainedModel, length: int) -> np.ndarray:
    """Logits of the texts one by one."""
    tokenizer = tiny_tokenizer()
    rows = [tokenizer(text, truncation=True, max_length=length, return_tensors="pt") for text in TEXTS]
    with torch.inference_mode():
        return np.concatenate([model(row["input_ids"], row["attention_mask"]).logits.numpy() for row in rows])


@pytest.mark.parametrize(("family", "length"), [("bert", 64), ("roberta", 62), ("qwen3", 64)])
def test_probabilities_are_those_of_the_model_in_the_order_of_the_task(
    tmp_path: Path, family: str, length: int
) -> None:
    logits = expected_logits(save_classifier(tmp_path, family, **NAMED), length)
    expected = torch.tensor(logits).softmax(-1).numpy()[:, [1, 2, 0]]
    soft = answers(tmp_path)
    assert soft.probabilities.dtype == soft.scores.dtype == np.float32
    np.testing.assert_allclose(soft.probabilities, expected, atol=1e-5)
    np.testing.assert_allclose(soft.scores, expected[:, 2] - expected[:, 0], atol=1e-5)
    assert np.isnan(answers(tmp_path, replace(REQUEST, scored=False)).scores).all()


def test_texts_are_truncated_at_max_length(tmp_path: Path) -> None:
    model = save_classifier(tmp_path, **NAMED)
    expected = torch.tensor(expected_logits(model, 8)).softmax(-1).numpy()[:, [1, 2, 0]]
    np.testing.assert_allclose(answers(tmp_path, max_length=8).probabilities, expected, atol=1e-5)
    with pytest.raises(Fault, match="at most 64"):
        answers(tmp_path, max_length=65)


def test_generic_labels_are_refused_with_the_mapping_to_write_and_then_mapped(tmp_path: Path) -> None:
    save_classifier(tmp_path)
    with pytest.raises(Fault) as error:
        answers(tmp_path)
    assert "labels: {LABEL_0: negative, LABEL_1: neutral, LABEL_2: positive}" in str(error.value)
    assert "LABEL_0, LABEL_1, LABEL_2 of" in str(error.value)
    mapped = answers(tmp_path, labels={"LABEL_0": "positive", "LABEL_1": "negative", "LABEL_2": "neutral"})
    save_classifier(tmp_path / "named", **NAMED)
    np.testing.assert_array_equal(mapped.probabilities, answers(tmp_path / "named").probabilities)
    with pytest.raises(Fault, match="LABEL_7"):
        answers(tmp_path, labels={"LABEL_7": "positive"})


def test_regression_head_gives_scores_only_within_bounds(tmp_path: Path) -> None:
    model = save_classifier(tmp_path, num_labels=1)
    with torch.no_grad():
        model.classifier.weight *= 10
        model.classifier.bias += 0.2
    model.save_pretrained(tmp_path)
    outputs = expected_logits(model, 64)[:, 0]
    soft = answers(tmp_path)
    assert np.isnan(soft.probabilities).all()
    assert soft.probabilities.shape == (30, 3)
    assert 0 < (outputs > 1).sum() < 30
    np.testing.assert_allclose(soft.scores, outputs.clip(-1, 1), atol=1e-5)
    with pytest.raises(Fault, match="scores only"):
        answers(tmp_path, replace(REQUEST, scored=False))


def test_models_that_are_no_trained_classifiers_are_refused(tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone")
    with pytest.raises(Fault, match="classifier"):
        answers(tmp_path / "backbone")
    save_classifier(tmp_path / "multi", problem_type="multi_label_classification")
    with pytest.raises(Fault, match="multi-label"):
        answers(tmp_path / "multi")
    save_classifier(tmp_path / "pickled")
    weights = tmp_path / "pickled" / "model.safetensors"
    weights.rename(weights.with_name("pytorch_model.bin"))
    with pytest.raises(Fault, match="safetensors"):
        answers(tmp_path / "pickled")


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    save_classifier(tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(
        config.replace('"model_type": "bert"', '"model_type": "own", "auto_map": {"AutoConfig": "code.Config"}')
    )
    (tmp_path / "code.py").write_text("raise SystemExit('run')\n")
    with pytest.raises(Fault, match="sequence classifier"):
        answers(tmp_path)


def test_fingerprint_depends_on_weights_labels_and_length(tmp_path: Path) -> None:
    def fingerprint(name: str, **settings: object) -> str:
        path = str(tmp_path / name)
        return load_teacher(TeacherSettings.model_validate({"model": path} | settings), device="cpu").fingerprint

    model = save_classifier(tmp_path / "first", **NAMED)
    save_classifier(tmp_path / "copy", **NAMED)
    save_classifier(tmp_path / "other", **NAMED)
    with torch.no_grad():
        model.classifier.bias += 1
    model.save_pretrained(tmp_path / "other")
    first = fingerprint("first")
    assert fingerprint("copy") == first
    changed = [fingerprint("other"), fingerprint("first", max_length=8), fingerprint("first", labels={"neutral": "x"})]
    assert len({first, *changed}) == 4


def test_classifier_on_the_hub_is_downloaded_without_pickled_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_classifier(tmp_path / "model", **NAMED)
    (tmp_path / "model" / "pytorch_model.bin").write_bytes(b"pickle")
    with running_hub() as hub:
        hub.files["owner/finbert"] = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        for name, value in {
            "constants.HF_HUB_OFFLINE": False,
            "constants.HF_HUB_CACHE": str(tmp_path / "cache"),
            "constants.ENDPOINT": hub.url,
            "constants.HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "hf_api.api.endpoint": hub.url,
        }.items():
            monkeypatch.setattr(f"huggingface_hub.{name}", value)
        soft = load_teacher(TeacherSettings(model="owner/finbert"), device="cpu").answer(TEXTS, REQUEST)
    np.testing.assert_array_equal(soft.probabilities, answers(tmp_path / "model").probabilities)
    assert list((tmp_path / "cache").rglob("model.safetensors"))
    assert not list((tmp_path / "cache").rglob("*.bin"))


def test_missing_folder_and_revision_of_a_folder_are_refused(tmp_path: Path) -> None:
    save_classifier(tmp_path)
    with pytest.raises(Fault, match="Remove revision"):
        answers(tmp_path, revision="main")
    with pytest.raises(Fault, match="no such folder"):
        load_teacher(TeacherSettings(model=str(tmp_path / "nothing")))
