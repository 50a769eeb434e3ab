"""Claims about MixtureClassifier: it predicts what `moe infer` predicts, and refuses what is no list of texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Make
from mixtures import save_random_mixture

from moe import Fault, MixtureClassifier
from moe.inference.load import load
from moe.inference.stream import predict_rows
from moe.model.backbone import load_backbone
from moe.runs.best import write_result
from moe.runs.model_ref import resolve

TEXTS = ["profit rose", "moon bags fell again today and again", "bank", "calls of the chart lost"]


@pytest.fixture
def folder(make_work: Make) -> Path:
    """A run folder whose best model is a mixture of random experts."""
    work = make_work()
    save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work)
    write_result(work.out, {}, "moe-joint", "")
    return work.out


def test_classifier_predicts_as_moe_infer_does(folder: Path) -> None:
    classifier = MixtureClassifier.load(folder)
    rows = list(predict_rows([{"text": text} for text in TEXTS], load(resolve(folder / "moe-joint"))))
    assert classifier.answers(TEXTS) == rows
    assert classifier.predict(TEXTS) == [row["label"] for row in rows]
    probabilities = classifier.predict_proba(TEXTS)
    assert probabilities.sum(1) == pytest.approx(1)
    np.testing.assert_allclose(probabilities, [list(row["probabilities"].values()) for row in rows], atol=1e-6)
    assert list(classifier.classes_[probabilities.argmax(1)]) == classifier.predict(TEXTS)
    assert (classifier.experts, classifier.domains) == (("news", "forum"),) * 2
    assert "moe-joint" in repr(classifier)


def test_run_folder_loads_its_best_mixture_and_a_path_may_be_a_string(folder: Path) -> None:
    assert MixtureClassifier.load(str(folder)).folder == folder / "moe-joint"
    assert MixtureClassifier.load(folder / "moe-joint").folder == folder / "moe-joint"


def test_predictions_do_not_depend_on_the_batch_size(folder: Path) -> None:
    default = MixtureClassifier.load(folder).predict_proba(TEXTS * 3)
    small = MixtureClassifier.load(folder, batch_tokens=8).predict_proba(TEXTS * 3)
    np.testing.assert_allclose(default, small, atol=1e-5)


def test_texts_may_be_pinned_to_a_domain_and_come_as_array_or_iterator(folder: Path) -> None:
    classifier = MixtureClassifier.load(folder)
    pinned = classifier.answers(TEXTS, domain="forum")
    assert {row["task"] for row in pinned} == {"forum"}
    assert classifier.predict(np.array(TEXTS)) == classifier.predict(text for text in TEXTS)
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ("profit rose", "put it into a list"),
        (7, "found a single int"),
        ([["profit"]], "text is not a string: list, at position 0"),
        (["profit", None], "missing text, at position 1"),
        (["profit", "  "], "missing text, at position 1"),
        (["profit", float("nan")], "text is not a string: float"),
        (["profit \ud800"], "broken encoding"),
        (np.array([["profit"]]), r"shape \(1, 1\)"),
        ({"text": "profit"}, "found a dict"),
    ],
)
def test_input_that_is_no_list_of_texts_is_refused(folder: Path, texts: Any, message: str) -> None:
    with pytest.raises(Fault, match=f"(?i){message}"):
        MixtureClassifier.load(folder).predict(texts)


def test_missing_models_and_invalid_options_are_refused(folder: Path, tmp_path: Path) -> None:
    unknown_routing: dict[str, Any] = {"routing": "warm"}
    with pytest.raises(Fault, match="Use a folder that moe has trained"):
        MixtureClassifier.load(tmp_path / "nowhere")
    with pytest.raises(Fault, match="a mixture in"):
        MixtureClassifier.load(tmp_path / "data")
    with pytest.raises(Fault, match="auto, soft, pruned or hard"):
        MixtureClassifier.load(folder, **unknown_routing)
    with pytest.raises(Fault, match="calibrated"):
        MixtureClassifier.load(folder, abstain=0.9)
    with pytest.raises(Fault, match=r"--set backbone"):
        MixtureClassifier.load(folder, sets=["lora.r=4"])
    with pytest.raises(Fault, match="Did you mean forum"):
        MixtureClassifier.load(folder).predict(TEXTS, domain="forun")
