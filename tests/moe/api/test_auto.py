"""Tests of mixtures in transformers' Auto classes."""

from pathlib import Path

import numpy as np
import pytest
from conftest import Make
from mixtures import save_random_mixture
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from moe import Fault, FinMoEForSequenceClassification, FinMoEModel
from moe.inference.predictor import Predictor
from moe.model.backbone import load_backbone

TEXTS = ["profit rose", "moon bags fell again today and again", "bank", "calls " * 60 + "lost"]


@pytest.fixture
def model(make_work: Make) -> FinMoEModel:
    """A mixture of random experts."""
    work = make_work()
    folder = save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work)
    return FinMoEModel.from_pretrained(folder)


def test_transformers_pipeline_gives_the_probabilities_of_the_mixture(model: FinMoEModel, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "saved")
    classify = pipeline("text-classification", model=str(folder))
    assert isinstance(classify.model, FinMoEForSequenceClassification)
    for text, expected in zip(TEXTS, model.predict_proba(TEXTS), strict=True):
        scores = {result["label"]: result["score"] for result in classify(text, top_k=None)}
        np.testing.assert_allclose([scores[label] for label in model.classes_], expected, atol=1e-6)


def test_auto_model_classifies_a_padded_batch(model: FinMoEModel, tmp_path: Path) -> None:
    folder = model.save_pretrained(tmp_path / "saved")
    auto = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    probabilities = auto(**batch).logits.softmax(1).numpy()  # (B, K)
    np.testing.assert_allclose(probabilities, model.predict_proba(TEXTS), atol=1e-6)
    assert [auto.config.id2label[k] for k in range(3)] == list(model.classes_)


def test_auto_model_saves_what_it_was_loaded_from(model: FinMoEModel, tmp_path: Path) -> None:
    auto = AutoModelForSequenceClassification.from_pretrained(model.save_pretrained(tmp_path / "saved"))
    auto.save_pretrained(tmp_path / "again")
    assert FinMoEModel.from_pretrained(tmp_path / "again").answers(TEXTS) == model.answers(TEXTS)


def test_auto_model_refuses_a_template_that_the_tokenizer_does_not_apply(
    model: FinMoEModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = model.save_pretrained(tmp_path / "saved")
    monkeypatch.setattr(Predictor, "template", property(lambda _: "sentence: {text}"))
    with pytest.raises(Fault, match=r"moe\.pipeline"):
        FinMoEForSequenceClassification.from_pretrained(saved)
