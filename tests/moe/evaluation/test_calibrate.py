"""Claims about calibrating: the temperature is found, labels stay, figures are by hand, a folder stays whole."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Make
from mixtures import written
from scipy.special import softmax

from experts.atomic_io import check_manifest
from experts.errors import Fault
from moe.evaluation.calibrate import MAX_TEMPERATURE, TaskLogits, calibrate, fit_calibration, calibration_report, fit_temperature
from moe.inference.abstention import MIN_ROWS
from moe.inference.calibration import CALIBRATION, TaskCalibration, read_calibration, write_calibration
from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

PNG = b"\x89PNG\r\n\x1a\n"


def overconfident(rows: int, factor: float = 2.5, seed: int = 0) -> TaskLogits:
    """Labels drawn as the logits say, then the logits made larger: the temperature to find is the factor."""
    random = np.random.default_rng(seed)
    logits = random.normal(size=(rows, 3)) * 2.0
    true = np.array([random.choice(3, p=row) for row in softmax(logits, axis=1)])
    return TaskLogits(logits * factor, true)


def test_the_temperature_that_made_logits_too_sure_is_found() -> None:
    assert fit_temperature(overconfident(8000)) == pytest.approx(2.5, rel=0.06)
    assert fit_temperature(overconfident(8000, 0.4)) == pytest.approx(0.4, rel=0.06)


def test_no_temperature_nearby_has_less_log_loss() -> None:
    one = overconfident(500)
    best = fit_temperature(one)

    def loss(temperature: float) -> float:
        return -np.log(one.probabilities(temperature)[np.arange(500), one.true]).mean()

    assert all(loss(best) <= loss(best * factor) for factor in (0.9, 0.99, 1.01, 1.1))


def test_it_is_scikit_learns_temperature() -> None:
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Identity(ClassifierMixin, BaseEstimator):
        def fit_calibration(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    one = overconfident(400)
    theirs = CalibratedClassifierCV(FrozenEstimator(Identity().fit(one.logits, one.true)), method="temperature")
    found = theirs.fit(one.logits, one.true).predict_proba(one.logits)
    np.testing.assert_allclose(one.probabilities(fit_temperature(one)), found, atol=1e-4)


def test_few_rows_and_faultless_rows_leave_the_temperature_at_1() -> None:
    few, faultless = overconfident(MIN_ROWS - 1), overconfident(200)
    faultless = TaskLogits(faultless.logits, faultless.logits.argmax(1))
    assert fit_calibration(few) == TaskCalibration(temperature=1.0, rows=MIN_ROWS - 1)
    assert fit_calibration(faultless).temperature == 1.0
    report = calibration_report(Path("x"), {"a": fit_calibration(few), "b": fit_calibration(faultless)}, {"a": few, "b": faultless}, {})
    assert "29 validation rows, fewer than 30: T stays 1" in report["tasks"]["a"]["remark"]
    assert "every validation row is right" in report["tasks"]["b"]["remark"]
    assert report["tasks"]["a"]["abstain"]["0.80"] is None


def test_a_model_worse_than_chance_is_held_to_the_hottest() -> None:
    one = overconfident(300)
    assert fit_temperature(TaskLogits(-one.logits, one.true)) == pytest.approx(MAX_TEMPERATURE, rel=0.01)


def test_calibrating_mends_ece_and_log_loss_on_rows_it_never_saw() -> None:
    held_out, test = overconfident(1000), overconfident(4000, seed=1)
    one = fit_calibration(held_out)
    figures = calibration_report(Path("x"), {"a": one}, {"a": held_out}, {"a": test})["tasks"]["a"]["test"]
    for name in ("ece", "ece_adaptive", "brier", "log_loss"):
        assert figures["after"][name] < figures["before"][name]
    assert figures["after"]["ece"] < 0.03


def test_a_wanted_accuracy_is_kept_on_rows_it_never_saw() -> None:
    held_out, test = overconfident(3000), overconfident(3000, seed=1)
    report = calibration_report(Path("x"), {"a": fit_calibration(held_out)}, {"a": held_out}, {"a": test})["tasks"]["a"]["abstain"]
    shares = [report[wanted]["test"]["coverage"] for wanted in ("0.80", "0.85", "0.90", "0.95")]
    assert shares == sorted(shares, reverse=True)
    assert 0.1 < shares[-1] < shares[0] < 1
    for wanted, one in report.items():
        assert one["test"]["accuracy"] == pytest.approx(float(wanted), abs=0.03)
        low, high = one["test"]["accuracy_interval"]
        assert low < one["test"]["accuracy"] < high


@pytest.fixture
def work(make_work: Make) -> Workspace:
    return make_work(
        domains={name: {"split": {"own": False, "ratios": [40, 40, 20]}} for name in ("news", "forum")},
    )


def test_a_calibrated_folder_is_whole_and_says_the_same_labels_with_other_confidence(
    work: Workspace, tmp_path: Path
) -> None:
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    texts = ["profit rose today", "moon bags fell again", "the bank kept sales with orders"]
    before = predict_texts(texts, ModelLoader(folder).load())
    others = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    report = calibrate(work, folder)
    check_manifest(folder, "a mixture")
    assert {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file() and p.name != CALIBRATION} == others
    found = read_calibration(folder)
    assert found
    assert {task: one.rows for task, one in found.tasks.items()} == {"news": 36, "forum": 36}
    assert report["tasks"]["news"]["temperature"] == found.temperature("news") != 1
    assert report["tasks"]["forum"]["test"]["rows"] == 18
    after = predict_texts(texts, ModelLoader(folder).load())
    assert [one.label for one in after] == [one.label for one in before]
    for one, other in zip(before, after, strict=True):
        scaled = softmax(np.log(one.probabilities) / found.temperature(one.task))
        np.testing.assert_allclose(other.probabilities, scaled, atol=1e-6)
    target = work.out / "evaluation" / "model"
    assert json.loads((target / CALIBRATION).read_text()) == report
    for name in ("reliability.png", "risk_coverage.png"):
        assert (target / name).read_bytes().startswith(PNG)


def test_calibrating_again_changes_nothing_of_the_same_rows(work: Workspace, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    first = calibrate(work, folder)
    content = (folder / CALIBRATION).read_bytes()
    assert calibrate(work, folder) == first
    assert (folder / CALIBRATION).read_bytes() == content


def test_windows_are_averaged_before_the_temperature(work: Workspace, tmp_path: Path) -> None:
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    long = ["profit rose and the bank fell " * 6]
    (plain,) = predict_texts(long, ModelLoader(folder, windows=True).load())
    write_calibration(folder, {task: TaskCalibration(temperature=2.0, rows=50) for task in ("news", "forum")})
    (cooled,) = predict_texts(long, ModelLoader(folder, windows=True).load())
    np.testing.assert_allclose(cooled.probabilities, softmax(np.log(plain.probabilities) / 2), atol=1e-6)


def test_a_run_without_validation_rows_is_refused(make_work: Make, tmp_path: Path) -> None:
    bare = {name: {"split": {"own": False, "ratios": [80, 0, 20]}} for name in ("news", "forum")}
    work = make_work(domains=bare)
    folder = written(tmp_path / "model", load_backbone(work.run.backbone), work)
    with pytest.raises(Fault, match="labelled validation rows to calibrate on"):
        calibrate(work, folder)
    assert not (folder / CALIBRATION).exists()
