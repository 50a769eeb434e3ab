"""Claims about the pipeline: its results have the structure of transformers' text classification."""

from pathlib import Path
from typing import Any

import pytest
from conftest import Make
from mixtures import save_random_mixture

import moe
from moe.model.backbone import load_backbone

TEXTS = ["profit rose", "moon bags fell again"]


@pytest.fixture
def folder(make_work: Make) -> Path:
    """A mixture of random experts."""
    work = make_work()
    return save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work)


def test_results_have_the_structure_of_transformers(folder: Path) -> None:
    classify = moe.pipeline(folder)
    (single,) = classify(TEXTS[0])
    assert {"label", "score"} <= single.keys()
    several = classify(TEXTS)
    assert [set(row) for row in several] == [set(single)] * 2
    assert [row["label"] for row in several] == classify.classifier.predict(TEXTS)
    ranked = classify(TEXTS[0], top_k=None)
    assert [set(row) for row in ranked] == [{"label", "score"}] * 3
    assert sorted((row["score"] for row in ranked), reverse=True) == [row["score"] for row in ranked]
    assert classify(TEXTS, top_k=1) == [[{"label": row["label"], "score": row["score"]}] for row in several]
    assert len(moe.pipeline(folder, top_k=2)(TEXTS[0])) == 2


def test_stream_is_read_as_it_is_classified(folder: Path) -> None:
    classify = moe.pipeline(folder, batch_size=1)
    predictor = classify.classifier.predictor
    assert predictor.batch_tokens == predictor.max_length
    read: list[str] = []
    stream = classify(read.append(text) or text for text in TEXTS * 20)
    first = next(stream)
    assert len(read) == predictor.chunk_size < 40
    assert len([first, *stream]) == 40


def test_domain_of_the_pipeline_applies_to_every_call(folder: Path) -> None:
    assert {row["task"] for row in moe.pipeline(folder, domain="forum")(TEXTS)} == {"forum"}


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": "all"}, {"batch_size": 0}, {"domain": "sports"}])
def test_invalid_options_and_texts_are_refused(folder: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(moe.Fault):
        moe.pipeline(folder, **wrong)
    with pytest.raises(moe.Fault, match="position 1"):
        moe.pipeline(folder)(["profit", ""])
