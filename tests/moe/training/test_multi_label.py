"""Training with a multi-label task beside a task of one label per row: experts, mixture, evaluation, calibration."""

import json
from pathlib import Path

import pytest
from conftest import TOPICS, Make, topic_domain

from experts.errors import Fault
from experts.expert_io import CARD, read_expert, read_expert_card
from moe.checkpoints.mixture import read_card
from moe.evaluation.baselines import baseline_results
from moe.evaluation.calibration.calibrate import calibrate
from moe.evaluation.evaluate import evaluate_folder
from moe.explain.explain import explain
from moe.inference.calibration import read_calibration
from moe.inference.load import LoadOptions, load_torch
from moe.inference.stream import predict_rows
from moe.merging.merge import check_merge
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

FEW = {"steps": 60, "lr": 0.02, "head_lr": 0.05}


@pytest.fixture
def trained(make_work: Make) -> Workspace:
    """A run with a multi-label task and one of one label per row, whose experts share one set of heads."""
    work = make_work(domains=topic_domain(), shared={"r": 2, "alpha": 4}, stages={"expert": FEW, "shared": FEW})
    train_shared(work)
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    return work


@pytest.mark.slow
def test_run_with_a_multi_label_task_trains_merges_calibrates_and_predicts_sets(trained: Workspace) -> None:
    folder = trained.out / "moe-joint"
    for name, kinds in (("news", {"news": "multi_label"}), ("forum", {})):
        path = trained.expert_folder(name) / CARD
        assert read_expert_card(path).kinds == kinds
        assert ("kinds" in json.loads(path.read_text())) is bool(kinds)  # earlier releases read the other card
    assert [domain.kinds for domain in read_card(folder).domains] == [{"news": "multi_label"}, {}]
    report = evaluate_folder(trained, folder, (), None, None, "soft", pin=False, per_expert=True)
    metrics = report.tasks["news"]
    assert metrics.confusion is None
    assert metrics.macro_f1 > 0.6 > metrics.accuracy
    assert metrics.lrap > 0.8
    assert report.tasks["forum"].lrap is None
    calibrated = calibrate(trained, folder).tasks["news"]
    assert calibrated.temperature < 1
    assert set(calibrated.label_thresholds) == set(TOPICS)
    assert read_calibration(folder).tasks["forum"].label_thresholds is None
    predictor = load_torch(resolve(folder), LoadOptions())
    texts = ["the profit rises and falls", "the"]
    for row in predict_rows([{"text": text} for text in texts], predictor, "news"):
        chosen = [label for label in TOPICS if row["probabilities"][label] >= calibrated.label_thresholds[label]]
        assert (row["labels"], row["label"]) == (chosen, ";".join(chosen))
        assert 0 < row["confidence"] < 1
    explanation = explain(predictor, texts[0], "news", steps=4)
    probabilities = explanation.answer["probabilities"]
    assert explanation.why.of == max(probabilities, key=probabilities.__getitem__)


def test_tfidf_predicts_each_label_of_a_multi_label_task_by_itself(make_work: Make) -> None:
    work = make_work(domains=topic_domain())
    space = work.run.label_space()
    train, held_out, test = (work.rows(split, ["news"]) for split in ("train", "validation", "test"))
    constant, result = (
        baseline_results(train, test, space, name, held_out)["news"].metrics for name in ("majority", "tfidf")
    )
    assert result.macro_f1 > 0.9 > constant.macro_f1
    assert result.accuracy > constant.accuracy


def test_merge_refuses_an_expert_whose_task_was_of_another_kind(make_work: Make) -> None:
    work = make_work(domains=topic_domain())
    train_domain(work, "news")
    other = make_work("other", domains=topic_domain(kind="classes")).run
    expert = read_expert(work.expert_folder("news"))
    assert expert.card is not None
    with pytest.raises(Fault, match="task news of the kind classes"):
        check_merge(other, [expert], expert.card.backbone)


@pytest.mark.parametrize(
    ("setting", "over"),
    [
        ("data.augmented", {"data": {"augmented": True}}),
        ("distill", {"distill": {"teachers": ["ready"], "labelled": True}}),
    ],
)
def test_config_refuses_what_is_not_defined_for_multi_label_tasks(make_work: Make, setting: str, over: dict) -> None:
    with pytest.raises(Fault, match=f"{setting} is set, but task news is of the kind multi_label"):
        make_work(domains=topic_domain(), **over)


def test_evaluation_reads_a_multi_label_file(make_work: Make, tmp_path: Path) -> None:
    work = make_work(domains=topic_domain())
    train_domain(work, "news")
    file = tmp_path / "data" / "topics.csv"
    report = evaluate_folder(work, work.expert_folder("news"), (), file, "news", "soft", pin=False)
    assert report.tasks["news"].rows == 120
