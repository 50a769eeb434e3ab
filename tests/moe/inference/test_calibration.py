"""Claims about `calibration.json`: bound to its model, refused when odd, and not needed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experts.atomic_io import atomic_folder, write_text
from experts.errors import Fault
from moe.inference.abstention import RiskCoveragePoint
from moe.inference.calibration import CALIBRATION, TaskCalibration, read_calibration, write_calibration

KEPT = (RiskCoveragePoint(threshold=0.0, rows=50, right=40), RiskCoveragePoint(threshold=0.8, rows=40, right=38))


def model(path: Path, content: str = "weights") -> Path:
    """A folder with a manifest, calibrated."""
    with atomic_folder(path) as folder:
        write_text(folder / "weights", content)
    write_calibration(path, {"news": TaskCalibration(temperature=1.5, rows=50, curve=KEPT)})
    return path


def test_what_is_written_is_read_and_other_tasks_stay_as_they_are(tmp_path: Path) -> None:
    found = read_calibration(model(tmp_path / "a"))
    assert found
    assert (found.temperature("news"), found.temperature("forum")) == (1.5, 1.0)
    assert (found.threshold("news", 0.8), found.threshold("news", 0.81)) == (0.0, 0.8)
    with pytest.raises(Fault, match="30 validation rows of forum"):
        found.threshold("forum", 0.5)


def test_a_copy_is_calibrated_too_and_a_copy_without_it_is_not(tmp_path: Path) -> None:
    copy = shutil.copytree(model(tmp_path / "a"), tmp_path / "b")
    assert read_calibration(copy)
    (copy / CALIBRATION).unlink()
    assert read_calibration(copy) is None


def test_another_model_s_calibration_is_refused(tmp_path: Path) -> None:
    one, other = model(tmp_path / "a"), model(tmp_path / "b", "others")
    shutil.copy(one / CALIBRATION, other / CALIBRATION)
    with pytest.raises(Fault, match="the calibration of this model"):
        read_calibration(other)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"format": 2}, "format 2"),
        ({"tasks": {"news": {"temperature": 0, "rows": 1}}}, "tasks.news.temperature"),
        ({"tasks": {"news": {"temperature": float("nan"), "rows": 1}}}, "tasks.news.temperature"),
        ({"tasks": {"news": {"temperature": float("inf"), "rows": 1}}}, "tasks.news.temperature"),
        ({"tasks": {"news": {"rows": 1}}}, "tasks.news.temperature: Field required"),
        ({"tasks": []}, "tasks"),
        ({"extra": 1}, "extra"),
    ],
)
def test_an_odd_file_is_refused_by_what_is_odd(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    path = model(tmp_path / "a") / CALIBRATION
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Fault, match=told):
        read_calibration(path.parent)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"'])
def test_a_file_that_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    path = model(tmp_path / "a") / CALIBRATION
    path.write_text(content)
    with pytest.raises(Fault, match=r"calibration\.json"):
        read_calibration(path.parent)
