"""Claims about calibration: labels do not change, metrics improve on unseen rows, the report states what is lacking."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import Make
from logits import overconfident
from mixtures import save_random_mixture
from rich.console import Console
from scipy.special import softmax

from experts.atomic_io import check_manifest
from experts.errors import Fault
from moe.checkpoints.mixture import read_mixture, write_mixture
from moe.checkpoints.mixture_card import RoutingDecision, RoutingFigures
from moe.evaluation.calibration.calibrate import calibrate, calibration_report, calibration_view, fit_calibration
from moe.evaluation.calibration.temperature import TaskLogits
from moe.inference.abstention import MIN_ROWS
from moe.inference.calibration import CALIBRATION, TaskCalibration, read_calibration, write_calibration
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.results.base import read_result
from moe.results.calibration import CalibrationReport, OperatingPoint
from moe.runs.model_ref import resolve
from moe.runs.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n"


def test_temperature_stays_1_for_too_few_rows_and_for_correct_rows_only() -> None:
    few, correct = overconfident(MIN_ROWS - 1), overconfident(200)
    correct = TaskLogits(correct.logits, correct.logits.argmax(1))
    assert (fit_calibration(few).temperature, fit_calibration(few).curve) == (1.0, ())
    assert fit_calibration(correct).temperature == 1.0
    calibrations = {"a": fit_calibration(few), "b": fit_calibration(correct)}
    report = calibration_report(Path("x"), calibrations, {"a": few, "b": correct}, {})
    assert "29 validation rows, fewer than 30: T stays 1" in report.tasks["a"].remark
    assert "every validation row is predicted correctly" in report.tasks["b"].remark
    assert report.tasks["a"].abstain["0.80"] == OperatingPoint(threshold=None, rows_needed=None)


def test_calibration_improves_ece_and_log_loss_on_unseen_rows() -> None:
    validation, test = overconfident(1000), overconfident(4000, seed=1)
    calibrations = {"a": fit_calibration(validation)}
    metrics = calibration_report(Path("x"), calibrations, {"a": validation}, {"a": test}).tasks["a"].test
    for name in ("ece", "ece_adaptive", "brier", "log_loss"):
        assert getattr(metrics.after, name) < getattr(metrics.before, name)
    assert metrics.after.ece < 0.03


def test_target_accuracy_is_reached_on_unseen_rows() -> None:
    validation, test = overconfident(3000), overconfident(3000, seed=1)
    calibrations = {"a": fit_calibration(validation)}
    points = calibration_report(Path("x"), calibrations, {"a": validation}, {"a": test}).tasks["a"].abstain
    coverages = [points[accuracy].test.coverage for accuracy in ("0.80", "0.85", "0.90", "0.95")]
    assert coverages == sorted(coverages, reverse=True)
    assert 0.1 < coverages[-1] < coverages[0] < 1
    for accuracy, point in points.items():
        assert float(accuracy) <= point.lower < point.accuracy
        assert float(accuracy) <= point.test.accuracy < float(accuracy) + 0.04
        low, high = point.test.accuracy_interval
        assert low < point.test.accuracy < high


def test_report_states_the_level_and_how_many_rows_an_accuracy_out_of_reach_needs() -> None:
    confidence = np.linspace(0.99, 0.5, 150)
    wrong = np.diff(np.floor(np.cumsum(1 - confidence)), prepend=0.0).astype(int)  # as many as the confidence predicts
    validation = TaskLogits(np.log(np.stack([confidence, 1 - confidence], axis=1)), wrong)
    report = calibration_report(Path("x"), {"a": fit_calibration(validation, level=0.8)}, {"a": validation}, {})
    assert report.level == 0.8
    point = report.tasks["a"].abstain["0.95"]
    assert point.threshold is None
    assert 150 < point.rows_needed <= 3000
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(calibration_view(report))
    text = " ".join(console.export_text().split())  # the title is as wide as the table
    assert "a threshold misses its target accuracy in at most 20% of calibrations" in text
    assert f"{point.rows_needed:,} rows" in text


@pytest.mark.parametrize("level", [0.49, 1.0, float("nan")])
def test_level_out_of_range_is_refused_before_anything_is_loaded(level: float, work: Workspace, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"--level of at least 0\.5 and below 1"):
        calibrate(work, tmp_path / "no such model", level=level)


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(
        domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")},
    )


def test_calibrated_folder_is_complete_and_predicts_the_same_labels(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    texts = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]
    before = predict_texts(texts, load(resolve(folder)))
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    report = calibrate(work, folder)
    check_manifest(folder, "a mixture")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != CALIBRATION} == files
    calibration = read_calibration(folder)
    assert calibration
    assert {name: task.rows for name, task in calibration.tasks.items()} == {"news": 36, "forum": 36}
    assert report.tasks["news"].temperature == calibration.temperature("news")
    assert report.tasks["forum"].test.rows == 18
    write_calibration(folder, {name: TaskCalibration(temperature=1.7, rows=36) for name in ("news", "forum")})
    calibration = read_calibration(folder)
    assert calibration
    after = predict_texts(texts, load(resolve(folder)))
    assert [prediction.label for prediction in after] == [prediction.label for prediction in before]
    for uncalibrated, calibrated in zip(before, after, strict=True):
        scaled = softmax(np.log(uncalibrated.probabilities) / calibration.temperature(uncalibrated.task))
        np.testing.assert_allclose(calibrated.probabilities, scaled, atol=1e-6)
    target = work.out / "evaluation" / "model"
    assert read_result(target / CALIBRATION, CalibrationReport) == report
    for name in ("reliability.png", "risk_coverage.png"):
        assert (target / name).read_bytes().startswith(PNG)


def test_calibration_on_the_same_rows_is_reproducible(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    first = calibrate(work, folder)
    content = (folder / CALIBRATION).read_bytes()
    assert calibrate(work, folder) == first
    assert (folder / CALIBRATION).read_bytes() == content


def test_windows_are_averaged_before_the_temperature_is_applied(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    texts = ["profit rose and the bank fell " * 6]
    (uncalibrated,) = predict_texts(texts, load(resolve(folder), LoadOptions(windows=True)))
    write_calibration(folder, {task: TaskCalibration(temperature=2.0, rows=50) for task in ("news", "forum")})
    (calibrated,) = predict_texts(texts, load(resolve(folder), LoadOptions(windows=True)))
    expected = softmax(np.log(uncalibrated.probabilities) / 2)
    np.testing.assert_allclose(calibrated.probabilities, expected, atol=1e-6)


def test_calibration_is_fitted_on_the_routing_of_inference_and_holds_for_no_other(
    work: Workspace, tmp_path: Path
) -> None:
    model, card = read_mixture(save_random_mixture(tmp_path / "old", load_backbone(work.run.backbone), work))
    figures = RoutingFigures(macro_f1=0.8, log_loss=0.5, ece=0.05, skipped=0.5)
    decision = RoutingDecision(choice="hard", prune=0.02, rows=9, figures={"soft": figures, "hard": figures})
    folder = tmp_path / "model"
    write_mixture(folder, model, card.model_copy(update={"routing": decision}), "", {})
    report, calibration = calibrate(work, folder), read_calibration(folder)
    assert calibration
    assert report.routing == calibration.routing == "hard"
    predictor = load(resolve(folder), LoadOptions(routing="auto", abstain=0.5))
    assert predictor.routing == "hard"
    soft = predictor.with_options("soft", abstain=0.5)
    for pin in (None, "news"):
        with pytest.raises(Fault, match=r"calibrated.*soft.*--routing hard, or run moe calibrate --routing soft"):
            soft.check(None, pin)
    predictor.with_options("soft").check(None, None)  # confidences alone promise nothing


def test_run_without_validation_rows_is_refused(make_work: Make, tmp_path: Path) -> None:
    without_validation = {name: {"split": {"own": False, "ratios": [80, 0, 20]}} for name in ("news", "forum")}
    work = make_work(domains=without_validation)
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="labelled validation rows to calibrate on"):
        calibrate(work, folder)
    assert not (folder / CALIBRATION).exists()
