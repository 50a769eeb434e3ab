"""Claims about predictions per expert: equal to pinned ones, in the order of the rows, and written for the report."""

from pathlib import Path

import pytest
from conftest import Make
from mixtures import random_mixture
from training_logs import write_run

from moe.errors import Fault
from moe.evaluation.evaluate import evaluate
from moe.evaluation.evaluation_files import write_evaluation, write_per_expert
from moe.inference.per_expert import per_expert_columns, predict_per_expert
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.findings import read_findings
from moe.runs.reader import read_run
from moe.runs.workspace import Workspace

TEXTS = ["profit rose", "moon bags fell again today", "the bank held"] * 3


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work()


@pytest.fixture
def predictor(work: Workspace) -> TorchPredictor:
    return TorchPredictor(random_mixture(load_backbone(work.run.backbone), work), "{text}", 16)


def test_per_expert_predictions_equal_pinned_ones_in_order(predictor: TorchPredictor) -> None:
    predictor.batch_tokens = 4  # several chunks
    columns = list(per_expert_columns(predictor, TEXTS, ["news"] * len(TEXTS)))
    pinned = {
        name: predict_texts(TEXTS, predictor, name, "news" if name == "news" else None) for name in ("news", "forum")
    }
    for name, predictions in pinned.items():
        assert [row["alone"][name] for row in columns] == [prediction.label for prediction in predictions]
        assert [row["probability"][name] for row in columns] == pytest.approx(
            [prediction.confidence for prediction in predictions], abs=1e-5
        )


def test_single_expert_has_no_per_expert_predictions(predictor: TorchPredictor, tmp_path: Path) -> None:
    with predictor.model.single_expert("news") as mode:
        predictor = predictor.with_mode(mode)
        assert predict_per_expert(predictor, TEXTS[:1], ["news"]) == {}
        with pytest.raises(Fault, match="several experts"):
            write_per_expert(tmp_path, predictor, [])


def test_report_reads_per_expert_predictions_and_a_new_evaluation_deletes_them(
    work: Workspace, predictor: TorchPredictor, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "other")
    folder = run / "evaluation" / "moe-joint"
    report, rows = evaluate(predictor.model, work.rows("test"), "{text}", 16)
    write_evaluation(folder, report, rows)
    write_per_expert(folder, predictor, rows)
    findings = read_findings(read_run(run))
    assert len(findings.expert_predictions) == len(findings.rows) == len(rows)
    assert set(findings.expert_predictions[0].experts) == {"news", "forum"}
    correct = sum(row.correct for row in findings.rows)
    assert correct == sum(prediction.row.correct for prediction in findings.expert_predictions)
    write_evaluation(folder, report, rows)
    assert read_findings(read_run(run)).expert_predictions == []
