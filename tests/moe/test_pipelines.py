"""Claims about the pipeline: the shapes that transformers' text classification gives, of our answers."""

from pathlib import Path

import pytest
from conftest import Make
from mixtures import written

import moe
from moe.model.backbone import load_backbone

TEXTS = ["profit rose", "moon bags fell again"]


@pytest.fixture
def folder(make_work: Make) -> Path:
    """A mixture of random experts."""
    work = make_work()
    return written(work.out / "moe-joint", load_backbone(work.run.backbone), work)


def test_shapes_are_those_of_transformers(folder: Path) -> None:
    ask = moe.pipeline(folder)
    (one,) = ask(TEXTS[0])
    assert {"label", "score"} <= one.keys()
    several = ask(TEXTS)
    assert [set(row) for row in several] == [set(one)] * 2
    assert [row["label"] for row in several] == ask.classifier.predict(TEXTS)
    ranked = ask(TEXTS[0], top_k=None)
    assert [set(row) for row in ranked] == [{"label", "score"}] * 3
    assert sorted((row["score"] for row in ranked), reverse=True) == [row["score"] for row in ranked]
    assert ask(TEXTS, top_k=1) == [[{"label": row["label"], "score": row["score"]}] for row in several]
    assert len(moe.pipeline(folder, top_k=2)(TEXTS[0])) == 2


def test_a_stream_is_answered_as_it_is_read(folder: Path) -> None:
    ask = moe.pipeline(folder, batch_size=1)
    assert ask.classifier.predictor.batch_tokens == ask.classifier.predictor.max_length
    read: list[str] = []
    stream = ask(read.append(text) or text for text in TEXTS * 20)
    first = next(stream)
    assert len(read) == ask.classifier.predictor.chunk_size < 40
    assert len([first, *stream]) == 40


def test_a_domain_is_kept_from_call_to_call(folder: Path) -> None:
    assert {row["task"] for row in moe.pipeline(folder, domain="forum")(TEXTS)} == {"forum"}


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"top_k": "all"}, {"batch_size": 0}, {"domain": "sports"}])
def test_what_cannot_be_is_refused(folder: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(moe.Fault):
        moe.pipeline(folder, **wrong)  # type: ignore[arg-type]
    with pytest.raises(moe.Fault, match="position 1"):
        moe.pipeline(folder)(["profit", ""])
