"""Claims about `calibration.json`: it belongs to one model, is refused if invalid, and is optional."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experts.atomic_io import atomic_folder, write_text
from experts.errors import Fault
from experts.reused import SEAL, write_sealed_json
from moe.inference.abstention import RiskCoveragePoint
from moe.inference.calibration import (
    CALIBRATION,
    LabelSets,
    TaskCalibration,
    read_calibration,
    rows_for_sets,
    write_calibration,
)

CURVE = (RiskCoveragePoint(threshold=0.0, rows=50, right=40), RiskCoveragePoint(threshold=0.8, rows=40, right=38))


def write_model(path: Path, content: str = "weights") -> Path:
    """Write a folder with a manifest and a calibration."""
    with atomic_folder(path) as folder:
        write_text(folder / "weights", content)
    write_calibration(path, {"news": TaskCalibration(temperature=1.5, rows=50, curve=CURVE)})
    return path


def test_calibration_is_read_as_written_and_other_tasks_have_temperature_1(tmp_path: Path) -> None:
    calibration = read_calibration(write_model(tmp_path / "a"))
    assert calibration
    assert (calibration.temperature("news"), calibration.temperature("forum")) == (1.5, 1.0)
    assert (calibration.threshold("news", 0.8), calibration.threshold("news", 0.81)) == (0.0, 0.8)
    with pytest.raises(Fault, match="30 validation rows of forum"):
        calibration.threshold("forum", 0.5)


def test_calibration_of_format_1_is_read_with_its_thresholds(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a") / CALIBRATION
    content = json.loads(path.read_text())
    task = {name: content["tasks"]["news"][name] for name in ("temperature", "rows", "curve")}
    task["curve"] = [{name: point[name] for name in ("threshold", "rows", "right")} for point in task["curve"]]
    del content[SEAL]
    path.write_text(json.dumps(content | {"format": 1, "tasks": {"news": task}}))
    calibration = read_calibration(path.parent)
    assert calibration
    assert (calibration.temperature("news"), calibration.threshold("news", 0.81)) == (1.5, 0.8)
    assert calibration.unbounded


def test_calibration_names_the_routing_unless_it_is_soft_as_in_earlier_releases(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a")
    assert "routing" not in json.loads((path / CALIBRATION).read_text())
    for routing in ("soft", "hard"):
        write_calibration(path, {"news": TaskCalibration(temperature=1.5, rows=50)}, routing)
        calibration = read_calibration(path)
        assert calibration
        assert calibration.routing == routing
        calibration.require_routing(routing)
        with pytest.raises(Fault, match=f"--routing {routing}, or run moe calibrate --routing pruned"):
            calibration.require_routing("pruned")


def test_calibration_with_bounds_uses_them(tmp_path: Path) -> None:
    curve = tuple(point.model_copy(update={"lower": 0.72, "lower_half": 0.7}) for point in CURVE)
    path = write_model(tmp_path / "a")
    tasks = {"news": TaskCalibration(temperature=1.5, rows=50, level=0.9, curve=curve)}
    calibration = write_calibration(path, tasks)
    assert read_calibration(path) == calibration
    assert calibration.threshold("news", 0.7) == 0
    with pytest.raises(Fault, match=r"guarantee at level 0\.9, not 0\.8"):
        calibration.threshold("news", 0.8)
    assert not calibration.unbounded


def test_label_sets_are_read_as_written_and_leave_no_trace_in_a_calibration_without_them(tmp_path: Path) -> None:
    path = write_model(tmp_path / "a")
    assert "label_sets" not in (path / CALIBRATION).read_text()
    sets = LabelSets(level=0.9, rows=50, quantile=0.6)
    news, forum = TaskCalibration(temperature=1.5, rows=50, label_sets=sets), TaskCalibration(temperature=1.0, rows=8)
    calibration = write_calibration(path, {"news": news, "forum": forum})
    assert read_calibration(path) == calibration
    assert (calibration.sets_level, calibration.require_sets("news")) == (0.9, sets)
    with pytest.raises(Fault, match=r"forum with label sets at level 0\.9, of at least 9 validation rows; found 8"):
        calibration.require_sets("forum")


def test_label_sets_hold_the_most_probable_label_first_and_are_never_empty() -> None:
    sets, labels = LabelSets(level=0.9, rows=50, quantile=0.6), ("a", "b", "c")
    assert sets.select(labels, (0.45, 0.05, 0.5)) == ("c", "a")
    assert sets.select(labels, (0.4, 0.3, 0.3)) == ("a",)  # at the bound
    assert sets.select(labels, (0.3, 0.36, 0.34)) == ("b",)  # every label below the bound
    assert sets.model_copy(update={"quantile": 1.0}).select(labels, (0.0, 0.2, 0.8)) == ("c", "b", "a")


@pytest.mark.parametrize(("level", "rows"), [(0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.9999, 9999)])
def test_rows_for_sets_is_the_fewest_whose_corrected_rank_exists(level: float, rows: int) -> None:
    assert rows_for_sets(level) == rows


def test_copy_of_a_model_is_calibrated_unless_the_file_is_missing(tmp_path: Path) -> None:
    copy = shutil.copytree(write_model(tmp_path / "a"), tmp_path / "b")
    assert read_calibration(copy)
    (copy / CALIBRATION).unlink()
    assert read_calibration(copy) is None


def test_calibration_of_another_model_is_refused(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "a"), write_model(tmp_path / "b", "others")
    shutil.copy(first / CALIBRATION, second / CALIBRATION)
    with pytest.raises(Fault, match="the calibration of this model"):
        read_calibration(second)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 4}, "format 4"),
        ({"tasks": {"news": {"temperature": 0, "rows": 1}}}, "tasks.news.temperature"),
        ({"tasks": {"news": {"temperature": float("nan"), "rows": 1}}}, "NaN, which is not a JSON number"),
        ({"tasks": {"news": {"temperature": float("inf"), "rows": 1}}}, "Infinity, which is not a JSON number"),
        ({"tasks": {"news": {"rows": 1}}}, "tasks.news.temperature: Field required"),
        ({"tasks": []}, "tasks"),
        ({"extra": 1}, "extra"),
    ],
)
def test_invalid_calibration_is_refused_by_its_invalid_field(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    path = write_model(tmp_path / "a") / CALIBRATION
    content = json.loads(path.read_text()) | change
    if "NaN" in json.dumps(content) or "Infinity" in json.dumps(content):
        path.write_text(json.dumps(content))
    else:
        write_sealed_json(path, {key: value for key, value in content.items() if key != SEAL})
    with pytest.raises(Fault, match=message):
        read_calibration(path.parent)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '"x"'])
def test_file_that_is_no_calibration_is_refused(tmp_path: Path, content: str) -> None:
    path = write_model(tmp_path / "a") / CALIBRATION
    path.write_text(content)
    with pytest.raises(Fault, match=r"calibration\.json"):
        read_calibration(path.parent)
