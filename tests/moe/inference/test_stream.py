"""Claims about predictions: in order, independent of the batch; pinned, hard and windowed as requested."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, save_backbone
from mixtures import random_mixture

from experts.domain import Domain, LabelSpace
from experts.errors import Fault
from moe.data.polarity import find_sign
from moe.inference.spec import TaskInferenceSpec
from moe.inference.stream import predict_each, predict_rows, predict_texts
from moe.inference.torch_predictor import TorchPredictor, build_inference_spec
from moe.inference.windows import Scores
from moe.model.backbone import BackboneSettings, load_backbone


@pytest.fixture
def predictor(make_work: Make) -> TorchPredictor:
    work = make_work()
    return TorchPredictor(random_mixture(load_backbone(work.run.backbone), work), "{text}", 16)


TEXTS = ["profit rose", "moon bags fell again today and again", "bank", "calls of the chart lost", "rates"] * 7


def test_predictions_are_in_order_and_do_not_depend_on_the_batch(predictor: TorchPredictor) -> None:
    rows = [{"id": i, "text": text} for i, text in enumerate(TEXTS)]
    batched = list(predict_rows(rows, predictor))
    predictor.batch_tokens = 1
    single = list(predict_rows(rows, predictor))
    assert [row["id"] for row in batched] == list(range(len(TEXTS)))
    for a, b in zip(batched, single, strict=True):
        assert a["label"] == b["label"]
        assert a["probabilities"] == pytest.approx(b["probabilities"], abs=1e-5)


def test_stream_is_read_one_chunk_at_a_time(predictor: TorchPredictor) -> None:
    predictor.batch_tokens, read = 8, 0

    def stream() -> Iterator[dict[str, str]]:
        nonlocal read
        for text in TEXTS:
            read += 1
            yield {"text": text}

    next(predict_rows(stream(), predictor))
    assert read == predictor.chunk_size == 4


def test_row_with_an_error_is_returned_in_order_and_the_others_are_predicted(predictor: TorchPredictor) -> None:
    rows = [{"text": "bank"}, {"text": None, "error": "missing text"}, {"text": "rates"}]
    out = list(predict_rows(rows, predictor))
    assert [row.get("error") for row in out] == [None, "missing text", None]
    assert "label" not in out[1]


def test_row_has_all_fields_and_its_probabilities_and_weights_sum_to_1(predictor: TorchPredictor) -> None:
    (row,) = predict_rows([{"text": "bank"}], predictor)
    assert sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert sum(row["experts"].values()) == pytest.approx(1, abs=1e-5)
    names = {"label", "probabilities", "polarity", "confidence", "experts", "routing_entropy", "truncated"}
    assert names <= row.keys()
    assert row["confidence"] == max(row["probabilities"].values())


def test_pinned_domain_uses_its_own_expert(predictor: TorchPredictor) -> None:
    free = predict_texts(["bank"], predictor)[0].probabilities
    news, forum = (predict_texts(["bank"], predictor, domain)[0].probabilities for domain in ("news", "forum"))
    assert not np.allclose(news, forum)
    assert not np.allclose(free, forum)


def test_hard_routing_equals_pinning_the_most_probable_expert(predictor: TorchPredictor) -> None:
    best = ("news", "forum")[int(predict_texts(["bank"], predictor)[0].routing_weights.argmax())]
    pinned = predict_texts(["bank"], predictor, best)[0].probabilities
    predictor.routing = "hard"
    np.testing.assert_allclose(predict_texts(["bank"], predictor)[0].probabilities, pinned, atol=1e-6)


def test_long_texts_are_marked_as_truncated_or_averaged_over_windows(predictor: TorchPredictor) -> None:
    text = "profit rose and the bank fell " * 6
    truncated = predict_texts([text, "bank"], predictor)
    assert [prediction.truncated for prediction in truncated] == [True, False]
    predictor.windows = True
    windowed = predict_texts([text, "bank"], predictor)
    assert not windowed[0].truncated
    assert not np.allclose(windowed[0].probabilities, truncated[0].probabilities)
    np.testing.assert_allclose(windowed[1].probabilities, truncated[1].probabilities, atol=1e-6)


def task_spec(labels: tuple[str, ...]) -> TaskInferenceSpec:
    """The task `news` with these labels."""
    return TaskInferenceSpec(
        labels=labels,
        domain="news",
        head="news",
        columns=tuple(range(len(labels))),
        temperature=1.0,
        sign=find_sign(labels),
    )


def test_polarity_without_a_head_is_p_positive_minus_p_negative() -> None:
    def polarity_of(labels: tuple[str, ...]) -> float | None:
        return task_spec(labels).polarity(np.array([0.2, 0.1, 0.7]))

    assert polarity_of(("negative", "neutral", "positive")) == pytest.approx(0.5)
    assert polarity_of(("利空", "中性", "利好")) == pytest.approx(0.5)
    assert polarity_of(("dovish", "neutral", "hawkish")) is None


def test_unpinned_predictions_use_the_labels_of_the_most_probable_domain(predictor: TorchPredictor) -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b", "c")}), Domain("forum", {"forum": ("a", "c")})])
    predictor.model.labels = space
    predictor.spec = build_inference_spec(predictor.model, "{text}", 16)
    scores = Scores(
        logits={"a-b-c": np.zeros((2, 3))},
        polarity=None,
        routing_weights=np.array([[0.9, 0.1], [0.1, 0.9]]),
        truncated=np.zeros(2, dtype=bool),
    )
    predictions = predictor.to_predictions(scores, predictor.routed_tasks(scores))
    assert [prediction.labels for prediction in predictions] == [("a", "b", "c"), ("a", "c")]


def test_decoders_pad_on_the_right_and_are_frozen(tmp_path: Path) -> None:
    folder = save_backbone(tmp_path / "llama", "llama")
    backbone = load_backbone(BackboneSettings(name=str(folder), pooling="last"))
    assert backbone.tokenizer.padding_side == "right"
    assert not any(p.requires_grad for p in backbone.model.parameters())


def test_each_text_may_have_its_own_domain_and_task(predictor: TorchPredictor) -> None:
    pins, tasks = ["news", None, "forum"], [None, None, "news"]
    together = predict_each(TEXTS[:3], predictor, pins, tasks)
    for text, pin, task, prediction in zip(TEXTS[:3], pins, tasks, together, strict=True):
        (single,) = predict_texts([text], predictor, pin, task)
        assert (prediction.task, prediction.label) == (single.task, single.label)
        assert prediction.probabilities == pytest.approx(single.probabilities, abs=1e-5)


def test_one_loaded_model_serves_both_routings_in_turn(predictor: TorchPredictor) -> None:
    hard = TorchPredictor(predictor.model, "{text}", 16, "hard")
    for shared, expected in ((predictor.with_options("hard"), hard), (predictor.with_options("soft"), predictor)):
        for a, b in zip(predict_texts(TEXTS, shared), predict_texts(TEXTS, expected), strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    with pytest.raises(Fault, match="a calibrated model to abstain with"):
        predictor.with_options("soft", 0.9)
    with pytest.raises(Fault, match="a calibrated model for label sets"):
        predictor.with_options("soft", label_sets=True)
