"""A mixture, an expert or a run of this toolkit as a teacher."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, Make, made_up_rows
from mixtures import save_random_mixture

from experts.errors import Fault
from moe.data.distilled.soft_labels import SoftLabels
from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.request import TaskRequest, Teacher
from moe.distill.teacher import load_teacher
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.runs.model_ref import resolve
from moe.training.expert_steps import train_domain

TEXTS = [row["text"] for row in made_up_rows("news", count=30)]
REQUEST = TaskRequest(domain="news", task="news", labels=LABELS, scored=True)


@pytest.fixture
def mixture(make_work: Make, tmp_path: Path) -> Path:
    """A random mixture with the domains news (tasks news and entities) and forum (task forum)."""
    work = make_work()
    return save_random_mixture(tmp_path / "mixture", load_backbone(work.run.backbone), work, targets=True)


def load_one(folder: Path, **settings: object) -> Teacher:
    """A model as a teacher on the CPU."""
    return load_teacher(TeacherSettings.model_validate({"model": str(folder)} | settings), device="cpu")


def answers(folder: Path, request: TaskRequest = REQUEST, **settings: object) -> SoftLabels:
    """The soft labels of a model."""
    return load_one(folder, **settings).answer(TEXTS, request)


def test_mixture_answers_as_moe_infer_does_with_the_experts_of_the_domain(mixture: Path) -> None:
    predictions = predict_texts(TEXTS, load(resolve(mixture), LoadOptions(runtime="torch")), "forum", "forum")
    soft = answers(mixture, replace(REQUEST, domain="forum", task="forum"))
    assert soft.probabilities.shape == (30, 3)
    assert soft.probabilities.dtype == soft.scores.dtype == np.float32
    np.testing.assert_allclose(soft.probabilities, [row.probabilities for row in predictions], atol=1e-6)
    np.testing.assert_allclose(soft.scores, [row.polarity for row in predictions], atol=1e-6)


def test_mixture_lets_the_router_decide_for_a_domain_that_it_lacks(mixture: Path) -> None:
    predictions = predict_texts(TEXTS, load(resolve(mixture), LoadOptions(runtime="torch")), None, "news")
    soft = answers(mixture, replace(REQUEST, domain="tweets", task="tweets"))
    np.testing.assert_allclose(soft.probabilities, [row.probabilities for row in predictions], atol=1e-6)


def test_probabilities_are_in_the_order_of_the_request_whatever_the_case_of_its_labels(mixture: Path) -> None:
    soft = answers(mixture)
    turned = answers(mixture, replace(REQUEST, labels=("Positive", "NEGATIVE", "neutral")))
    np.testing.assert_array_equal(turned.probabilities, soft.probabilities[:, [2, 0, 1]])


def test_mapped_labels_are_added_and_others_dropped(mixture: Path) -> None:
    soft = answers(mixture).probabilities
    binary = replace(REQUEST, labels=("up", "rest"))
    merged = answers(mixture, binary, labels={"positive": "up", "Neutral": "rest", "negative": "rest"}).probabilities
    np.testing.assert_allclose(merged, np.stack([soft[:, 2], soft[:, 0] + soft[:, 1]], 1), atol=1e-6)
    signed = answers(mixture, replace(REQUEST, labels=("negative", "positive"))).probabilities
    np.testing.assert_allclose(signed, soft[:, [0, 2]] / soft[:, [0, 2]].sum(1, keepdims=True), atol=1e-6)


def test_scores_are_nan_where_none_are_requested(mixture: Path) -> None:
    assert np.isnan(answers(mixture, replace(REQUEST, scored=False)).scores).all()


def test_answers_to_no_texts_are_empty(mixture: Path) -> None:
    soft = load_teacher(TeacherSettings(model=str(mixture))).answer([], REQUEST)
    assert soft.probabilities.shape == (0, 3)
    assert soft.scores.shape == (0,)


def test_request_about_entities_is_answered_by_the_task_with_a_target(mixture: Path) -> None:
    targets = ["profit", "shares"] * 15
    predictor = load(resolve(mixture), LoadOptions(runtime="torch"))
    predictions = predict_texts(TEXTS, predictor, "news", "entities", targets)
    teacher, request = load_one(mixture), replace(REQUEST, task="others", targeted=True)
    assert teacher.can_answer(request)
    soft = teacher.answer(TEXTS, request, targets)
    np.testing.assert_allclose(soft.probabilities, [row.probabilities for row in predictions], atol=1e-6)
    assert not np.allclose(soft.probabilities, teacher.answer(TEXTS, request, ["sales"] * 30).probabilities)


def test_entities_are_left_to_teachers_whose_labels_fit(mixture: Path, make_work: Make, tmp_path: Path) -> None:
    assert not load_one(mixture).can_answer(replace(REQUEST, labels=("up", "down"), targeted=True))
    work = make_work()
    without = save_random_mixture(tmp_path / "without", load_backbone(work.run.backbone), work)
    assert not load_one(without).can_answer(replace(REQUEST, targeted=True))
    assert load_one(without).can_answer(REQUEST)


def test_requests_have_one_key_where_the_same_head_and_experts_answer_alike(mixture: Path) -> None:
    teacher = load_one(mixture)
    key = teacher.answer_key(REQUEST)
    assert teacher.answer_key(replace(REQUEST, task="other news")) == key
    others = [
        replace(REQUEST, domain="forum", task="forum"),
        replace(REQUEST, labels=LABELS[::-1]),
        replace(REQUEST, scored=False),
        replace(REQUEST, targeted=True),
    ]
    assert len({key, *map(teacher.answer_key, others)}) == 5


def test_expert_and_run_are_teachers(make_work: Make) -> None:
    work = make_work()
    (folder,) = train_domain(work, "news")
    request = replace(REQUEST, domain="tweets", task="tweets")
    predictions = predict_texts(TEXTS, load(resolve(folder), LoadOptions(runtime="torch")))
    np.testing.assert_allclose(
        answers(folder, request).probabilities, [row.probabilities for row in predictions], atol=1e-6
    )
    run = work.out
    save_random_mixture(run / "router-warmup", load_backbone(work.run.backbone), work)
    np.testing.assert_array_equal(answers(run).probabilities, answers(run / "router-warmup").probabilities)


def test_labels_that_do_not_cover_the_task_are_refused_with_the_mapping_to_write(mixture: Path) -> None:
    with pytest.raises(Fault) as error:
        answers(mixture, replace(REQUEST, labels=("bearish", "neutral", "bullish")))
    message = str(error.value)
    assert "labels bearish, neutral, bullish of task news" in message
    assert "labels negative, neutral, positive of" in message
    assert "labels: {negative: bearish, positive: bullish}" in message


def test_mapping_of_a_label_that_the_model_lacks_is_refused(mixture: Path) -> None:
    with pytest.raises(Fault, match="Did you mean positive"):
        answers(mixture, labels={"positiv": "positive"})


def test_outputs_that_are_not_finite_are_rows_of_nan(mixture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = load_teacher(TeacherSettings(model=str(mixture)), device="cpu")
    predictor = teacher._predictor  # type: ignore[attr-defined]
    scores = predictor.score(TEXTS[:3])
    logits = {head: values.copy() for head, values in scores.logits.items()}
    next(iter(logits.values()))[1, 0] = np.inf
    polarity = scores.polarity.copy()
    polarity[2] = np.nan
    monkeypatch.setattr(predictor, "score", lambda *_: replace(scores, logits=logits, polarity=polarity))
    soft = teacher.answer(TEXTS[:3], REQUEST)
    assert np.isnan(soft.probabilities).all(1).tolist() == [False, True, False]
    assert np.isnan(soft.scores).tolist() == [False, False, True]


def test_fingerprint_depends_on_weights_mapping_and_length_only(mixture: Path, make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    other = save_random_mixture(tmp_path / "other", load_backbone(work.run.backbone), work, targets=True, experts=2)
    fingerprint = load_one(mixture).fingerprint
    assert len(fingerprint) == 16
    assert int(fingerprint, 16) >= 0
    moved = mixture.rename(tmp_path / "moved")
    assert load_one(moved).fingerprint == fingerprint
    changed = [load_one(other), load_one(moved, labels={"neutral": "flat"}), load_one(moved, max_length=8)]
    assert len({fingerprint, *(teacher.fingerprint for teacher in changed)}) == 4
