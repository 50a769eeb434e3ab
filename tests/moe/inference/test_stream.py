"""Claims about answers: in order, whatever the batch; pinned, hard and windowed as asked."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, save_backbone
from mixtures import mixture

from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from moe.inference.predictor import Predictor, Scores, polarity_of
from moe.inference.stream import predict_each, predict_rows, predict_texts
from moe.model.backbone import BackboneSettings, load_backbone


@pytest.fixture
def predictor(make_work: Make) -> Predictor:
    work = make_work()
    return Predictor(mixture(load_backbone(work.run.backbone), work), "{text}", 16)


TEXTS = ["profit rose", "moon bags fell again today and again", "bank", "calls of the chart lost", "rates"] * 7


def test_answers_keep_their_place_and_do_not_depend_on_the_batch(predictor: Predictor) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    whole = list(predict_rows(rows, predictor))
    predictor.batch_tokens = 1
    single = list(predict_rows(rows, predictor))
    assert [row["id"] for row in whole] == list(range(len(TEXTS)))
    for a, b in zip(whole, single, strict=True):
        assert a["label"] == b["label"]
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_a_stream_is_read_a_window_at_a_time(predictor: Predictor) -> None:
    predictor.batch_tokens, taken = 8, 0

    def stream() -> Iterator[dict[str, str]]:
        nonlocal taken
        for text in TEXTS:
            taken += 1
            yield {"text": text}

    next(predict_rows(stream(), predictor))
    assert taken == predictor.chunk_size == 4


def test_a_bad_row_keeps_its_place_and_the_others_go_on(predictor: Predictor) -> None:
    rows = [{"text": "bank"}, {"text": None, "error": "missing text"}, {"text": "rates"}]
    out = list(predict_rows(rows, predictor))
    assert [row.get("error") for row in out] == [None, "missing text", None]
    assert "label" not in out[1]


def test_probabilities_and_shares_sum_to_one_and_fields_are_there(predictor: Predictor) -> None:
    (row,) = predict_rows([{"text": "bank"}], predictor)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(row["experts"].values()) == pytest.approx(1, abs=1e-5)
    names = {"label", "probabilities", "polarity", "confidence", "experts", "routing_entropy", "truncated"}
    assert names <= row.keys()
    assert row["confidence"] == max(row["probabilities"].values())


def test_a_pinned_domain_answers_with_its_own_expert(predictor: Predictor) -> None:
    free = predict_texts(["bank"], predictor)[0].probabilities
    news, forum = (predict_texts(["bank"], predictor, domain)[0].probabilities for domain in ("news", "forum"))
    assert not np.allclose(news, forum)
    assert not np.allclose(free, forum)


def test_hard_routing_equals_pinning_the_most_probable_expert(predictor: Predictor) -> None:
    best = ("news", "forum")[int(predict_texts(["bank"], predictor)[0].shares.argmax())]
    pinned = predict_texts(["bank"], predictor, best)[0].probabilities
    predictor.hard = True
    np.testing.assert_allclose(predict_texts(["bank"], predictor)[0].probabilities, pinned, atol=1e-6)


def test_long_texts_are_marked_or_averaged_over_windows(predictor: Predictor) -> None:
    text = "profit rose and the bank fell " * 6
    cut = predict_texts([text, "bank"], predictor)
    assert [one.truncated for one in cut] == [True, False]
    predictor.windows = True
    windowed = predict_texts([text, "bank"], predictor)
    assert not windowed[0].truncated
    assert not np.allclose(windowed[0].probabilities, cut[0].probabilities)
    np.testing.assert_allclose(windowed[1].probabilities, cut[1].probabilities, atol=1e-6)


def test_polarity_without_a_head_is_p_positive_minus_p_negative() -> None:
    assert polarity_of(("negative", "neutral", "positive"), np.array([0.2, 0.1, 0.7])) == pytest.approx(0.5)
    assert polarity_of(("利空", "中性", "利好"), np.array([0.2, 0.1, 0.7])) == pytest.approx(0.5)
    assert polarity_of(("dovish", "neutral", "hawkish"), np.ones(3) / 3) is None


def test_unpinned_answers_use_the_label_set_of_the_most_probable_domain(predictor: Predictor) -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b", "c")}), Domain("forum", {"forum": ("a", "c")})])
    predictor.model.labels = space
    logits = {"a-b-c": np.zeros((2, 3))}
    scores = Scores(logits, None, np.array([[0.9, 0.1], [0.1, 0.9]]), np.zeros(2, dtype=bool))
    answers = predictor.to_predictions(scores, predictor.routed_tasks(scores))
    assert [answer.labels for answer in answers] == [("a", "b", "c"), ("a", "c")]


def test_decoders_pad_on_the_right_and_are_frozen(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "llama", "llama")
    backbone = load_backbone(BackboneSettings(name=str(folder), pooling="last"))
    assert backbone.tokenizer.padding_side == "right"
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_texts_may_each_have_their_own_domain_and_task(predictor: Predictor) -> None:
    pins = ["news", None, "forum"]
    together = predict_each(TEXTS[:3], predictor, pins, [None, None, "news"])
    for text, pin, task, one in zip(TEXTS[:3], pins, [None, None, "news"], together, strict=True):
        (alone,) = predict_texts([text], predictor, pin, task)
        assert (one.task, one.label) == (alone.task, alone.label)
        assert one.probabilities == pytest.approx(alone.probabilities, abs=1e-5)


def test_one_loaded_model_is_asked_both_ways_in_turn(predictor: Predictor) -> None:
    other = Predictor(predictor.model, "{text}", 16, "hard")
    for asked, expected in ((predictor.with_options("hard"), other), (predictor.with_options("soft"), predictor)):
        for one, same in zip(predict_texts(TEXTS, asked), predict_texts(TEXTS, expected), strict=True):
            assert one.probabilities == pytest.approx(same.probabilities, abs=1e-5)
    with pytest.raises(Fault, match="a calibrated model, to abstain"):
        predictor.with_options("soft", 0.9)
