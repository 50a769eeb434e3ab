"""Claims about experts asked one by one: each as when it is pinned, in the rows' order, written for the report."""

from pathlib import Path

import pytest
from conftest import Make
from mixtures import mixture
from training_logs import write_run

from moe.errors import Fault
from moe.evaluation.evaluate import evaluate, write_per_expert, write_evaluation
from moe.inference.per_expert import predict_per_expert, per_expert_columns
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.runs.findings import read_findings
from moe.runs.reader import read_run
from moe.runs.workspace import Workspace

TEXTS = ["profit rose", "moon bags fell again today", "the bank held"] * 3


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work()


@pytest.fixture
def predictor(work: Workspace) -> Predictor:
    return Predictor(mixture(load_backbone(work.run.backbone), work), "{text}", 16)


def test_each_says_what_it_says_when_pinned_in_the_rows_order(predictor: Predictor) -> None:
    predictor.batch_tokens = 4  # several windows
    said = list(per_expert_columns(predictor, TEXTS, ["news"] * len(TEXTS)))
    pinned = {
        name: predict_texts(TEXTS, predictor, name, "news" if name == "news" else None) for name in ("news", "forum")
    }
    for name, answers in pinned.items():
        assert [one["alone"][name] for one in said] == [one.label for one in answers]
        assert [one["probability"][name] for one in said] == pytest.approx(
            [one.confidence for one in answers], abs=1e-5
        )


def test_a_lone_expert_has_nobody_beside_it(predictor: Predictor, tmp_path: Path) -> None:
    with predictor.model.single_expert("news"):
        assert predict_per_expert(predictor, TEXTS[:1], ["news"]) == {}
        with pytest.raises(Fault, match="several experts"):
            write_per_expert(tmp_path, predictor, [])


def test_what_is_written_is_what_the_report_reads_and_an_older_one_goes(
    work: Workspace, predictor: Predictor, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "other")
    folder = run / "evaluation" / "moe-joint"
    report, judged = evaluate(predictor.model, work.rows("test"), "{text}", 16)
    write_evaluation(folder, report, judged)
    write_per_expert(folder, predictor, judged)
    found = read_findings(read_run(run))
    assert len(found.expert_predictions) == len(found.rows) == len(judged)
    assert set(found.expert_predictions[0].experts) == {"news", "forum"}
    assert sum(one.correct for one in found.rows) == sum(one.row.correct for one in found.expert_predictions)
    write_evaluation(folder, report, judged)
    assert read_findings(read_run(run)).expert_predictions == []
