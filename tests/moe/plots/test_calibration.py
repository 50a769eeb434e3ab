"""Tests for calibration plots."""

from pathlib import Path

import numpy as np
import pytest

from experts.errors import Fault
from moe.plots.calibration import _risk_by_coverage, write_reliability_chart, write_risk_coverage_chart


def series(rows: int, names: tuple[str, str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    random = np.random.default_rng(rows)
    confidence = random.uniform(0.4, 1.0, rows)
    return {name: (confidence, random.random(rows) < confidence) for name in names}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("tasks", [1, 4, 5])
def test_charts_render_any_number_of_tasks_and_rows_without_warnings(tmp_path: Path, tasks: int) -> None:
    rows = (1, 3, 40, 100, 200)
    write_reliability_chart(
        tmp_path / "a.png", "test", {f"t{i}": series(rows[i], ("T = 1", "T = 2")) for i in range(tasks)}
    )
    write_risk_coverage_chart(
        tmp_path / "b.png", {f"t{i}": series(rows[i], ("validation", "test")) for i in range(tasks)}
    )
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in tmp_path.iterdir())
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "b.png"}


@pytest.mark.filterwarnings("error")
def test_charts_render_predictions_without_errors(tmp_path: Path) -> None:
    certain = (np.ones(50), np.ones(50, dtype=bool))
    write_reliability_chart(tmp_path / "a.png", "test", {"news": {"T = 1": certain}})
    write_risk_coverage_chart(tmp_path / "b.png", {"news": {"test": certain}})


def test_risk_by_coverage_equals_a_hand_calculation() -> None:
    correct = np.array([1] * 10 + [0, 1], dtype=bool)
    coverage, risk = _risk_by_coverage(np.linspace(1, 0.5, 12), correct)
    assert coverage == pytest.approx([100 * k / 12 for k in (10, 11, 12)])
    assert risk == pytest.approx([0, 100 / 11, 100 / 12])


def test_chart_in_an_unwritable_folder_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "in-the-way").write_text("a file")
    with pytest.raises(Fault, match="in-the-way"):
        write_risk_coverage_chart(tmp_path / "in-the-way" / "b.png", {"news": series(40, ("validation", "test"))})
