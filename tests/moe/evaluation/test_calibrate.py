"""Claims about calibration: the temperature is recovered, labels do not change, metrics improve on unseen rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Make
from mixtures import save_random_mixture
from scipy.special import softmax

from experts.atomic_io import check_manifest
from experts.errors import Fault
from moe.evaluation.calibrate import (
    MAX_TEMPERATURE,
    TaskLogits,
    calibrate,
    calibration_report,
    fit_calibration,
    fit_temperature,
)
from moe.inference.abstention import MIN_ROWS
from moe.inference.calibration import CALIBRATION, TaskCalibration, read_calibration, write_calibration
from moe.inference.model_loader import ModelLoader
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n"


def overconfident(rows: int, factor: float = 2.5, seed: int = 0) -> TaskLogits:
    """Labels drawn from the probabilities of logits that are then scaled: the temperature to recover is the factor."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 3)) * 2.0
    true = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    return TaskLogits(logits * factor, true)


def test_temperature_that_scaled_the_logits_is_recovered() -> None:
    assert fit_temperature(overconfident(8000)) == pytest.approx(2.5, rel=0.06)
    assert fit_temperature(overconfident(8000, 0.4)) == pytest.approx(0.4, rel=0.06)


def test_no_nearby_temperature_has_a_lower_log_loss() -> None:
    task = overconfident(500)
    best = fit_temperature(task)

    def loss(temperature: float) -> float:
        return -np.log(task.probabilities(temperature)[np.arange(500), task.true]).mean()

    assert all(loss(best) <= loss(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_temperature_equals_that_of_scikit_learn() -> None:
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Identity(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    task = overconfident(400)
    classifier = CalibratedClassifierCV(FrozenEstimator(Identity().fit(task.logits, task.true)), method="temperature")
    expected = classifier.fit(task.logits, task.true).predict_proba(task.logits)
    np.testing.assert_allclose(task.probabilities(fit_temperature(task)), expected, atol=1e-4)


def test_temperature_stays_1_for_too_few_rows_and_for_correct_rows_only() -> None:
    few, correct = overconfident(MIN_ROWS - 1), overconfident(200)
    correct = TaskLogits(correct.logits, correct.logits.argmax(1))
    assert fit_calibration(few) == TaskCalibration(temperature=1.0, rows=MIN_ROWS - 1)
    assert fit_calibration(correct).temperature == 1.0
    calibrations = {"a": fit_calibration(few), "b": fit_calibration(correct)}
    report = calibration_report(Path("x"), calibrations, {"a": few, "b": correct}, {})
    assert "29 validation rows, fewer than 30: T stays 1" in report["tasks"]["a"]["remark"]
    assert "every validation row is predicted correctly" in report["tasks"]["b"]["remark"]
    assert report["tasks"]["a"]["abstain"]["0.80"] is None


def test_model_worse_than_chance_gets_the_maximal_temperature() -> None:
    task = overconfident(300)
    assert fit_temperature(TaskLogits(-task.logits, task.true)) == pytest.approx(MAX_TEMPERATURE, rel=0.01)


def test_calibration_improves_ece_and_log_loss_on_unseen_rows() -> None:
    validation, test = overconfident(1000), overconfident(4000, seed=1)
    calibrations = {"a": fit_calibration(validation)}
    metrics = calibration_report(Path("x"), calibrations, {"a": validation}, {"a": test})["tasks"]["a"]["test"]
    for name in ("ece", "ece_adaptive", "brier", "log_loss"):
        assert metrics["after"][name] < metrics["before"][name]
    assert metrics["after"]["ece"] < 0.03


def test_target_accuracy_is_reached_on_unseen_rows() -> None:
    validation, test = overconfident(3000), overconfident(3000, seed=1)
    calibrations = {"a": fit_calibration(validation)}
    points = calibration_report(Path("x"), calibrations, {"a": validation}, {"a": test})["tasks"]["a"]["abstain"]
    coverages = [points[accuracy]["test"]["coverage"] for accuracy in ("0.80", "0.85", "0.90", "0.95")]
    assert coverages == sorted(coverages, reverse=True)
    assert 0.1 < coverages[-1] < coverages[0] < 1
    for accuracy, point in points.items():
        assert point["test"]["accuracy"] == pytest.approx(float(accuracy), abs=0.03)
        low, high = point["test"]["accuracy_interval"]
        assert low < point["test"]["accuracy"] < high


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(
        domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")},
    )


def test_calibrated_folder_is_complete_and_predicts_the_same_labels(work: Workspace, tmp_path: Path) -> None:
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    texts = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]
    before = predict_texts(texts, ModelLoader(folder).load())
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    report = calibrate(work, folder)
    check_manifest(folder, "a mixture")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != CALIBRATION} == files
    calibration = read_calibration(folder)
    assert calibration
    assert {name: task.rows for name, task in calibration.tasks.items()} == {"news": 36, "forum": 36}
    assert report["tasks"]["news"]["temperature"] == calibration.temperature("news") != 1
    assert report["tasks"]["forum"]["test"]["rows"] == 18
    after = predict_texts(texts, ModelLoader(folder).load())
    assert [prediction.label for prediction in after] == [prediction.label for prediction in before]
    for uncalibrated, calibrated in zip(before, after, strict=True):
        scaled = softmax(np.log(uncalibrated.probabilities) / calibration.temperature(uncalibrated.task))
        np.testing.assert_allclose(calibrated.probabilities, scaled, atol=1e-6)
    target = work.out / "evaluation" / "model"
    assert json.loads((target / CALIBRATION).read_text()) == report
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
    (uncalibrated,) = predict_texts(texts, ModelLoader(folder, windows=True).load())
    write_calibration(folder, {task: TaskCalibration(temperature=2.0, rows=50) for task in ("news", "forum")})
    (calibrated,) = predict_texts(texts, ModelLoader(folder, windows=True).load())
    expected = softmax(np.log(uncalibrated.probabilities) / 2)
    np.testing.assert_allclose(calibrated.probabilities, expected, atol=1e-6)


def test_run_without_validation_rows_is_refused(make_work: Make, tmp_path: Path) -> None:
    without_validation = {name: {"split": {"own": False, "ratios": [80, 0, 20]}} for name in ("news", "forum")}
    work = make_work(domains=without_validation)
    folder = save_random_mixture(tmp_path / "model", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="labelled validation rows to calibrate on"):
        calibrate(work, folder)
    assert not (folder / CALIBRATION).exists()
