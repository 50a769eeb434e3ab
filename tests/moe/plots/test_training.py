"""Claims about pictures: each is a PNG where there is something to draw, and none where there is not."""

from pathlib import Path
from typing import Any

import pytest
from training_logs import evaluation, joint_lines, step, write_log

from moe.plots import training as charts
from moe.runs.training_log import Trajectory, read_trajectory


def read(folder: Path, *lines: Any) -> Trajectory:
    """The trajectory of these lines."""
    found = read_trajectory(write_log(folder, *lines))
    assert found is not None
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that are drawn."""
    figures: list[Any] = []
    plain = charts.png

    def keep(figure: Any, *args: Any, **kwargs: Any) -> bytes:
        figures.append(figure)
        return plain(figure, *args, **kwargs)

    monkeypatch.setattr(charts, "png", keep)
    return figures


def is_png(content: bytes | None) -> bool:
    return content is not None and content.startswith(b"\x89PNG")


def named(panel: Any) -> list[str]:
    return panel.get_legend_handles_labels()[1]


def test_weights_are_drawn_by_batch_and_by_epoch(tmp_path: Path, drawn: list[Any]) -> None:
    found = read(tmp_path, *joint_lines())
    assert is_png(charts.weights_chart("joint", found, "outer"))
    panels = drawn[0].axes
    assert len(panels) == 8, "λ, w, c and what is in force, by batch and by epoch"
    assert named(panels[0]) == ["sentiment", "domain", "balance"]
    assert panels[0].lines[0].get_xdata().tolist() == list(range(1, 21))
    assert panels[4].lines[0].get_xdata().tolist() == [1, 2]
    assert all(panel.get_xlabel() for panel in panels)


def test_below_two_epochs_there_is_no_row_of_means(tmp_path: Path, drawn: list[Any]) -> None:
    assert is_png(charts.weights_chart("joint", read(tmp_path, *joint_lines(steps=8)), "inner"))
    assert len(drawn[0].axes) == 3


def test_losses_of_two_runs_share_panels_and_tell_how_they_are_smoothed(tmp_path: Path, drawn: list[Any]) -> None:
    runs = {name: read(tmp_path / name, *joint_lines(steps=70)) for name in ("dao", "constant")}
    assert is_png(charts.losses_chart("joint", runs))
    panels = drawn[0].axes
    assert len(panels) == 6
    told = [f"{name}: mean of 3 steps, each step behind it" for name in runs]
    assert [named(panel) for panel in panels] == [told] * 6
    assert len(panels[0].lines) == 4, "each run smoothed, and its raw values behind"
    (legend,) = drawn[0].legends
    assert [text.get_text() for text in legend.get_texts()] == told


def test_the_kept_evaluation_is_marked(tmp_path: Path, drawn: list[Any]) -> None:
    found = read(tmp_path, *joint_lines())
    assert is_png(charts.validation_chart("joint", {"one": found, "two": found}))
    panel = drawn[0].axes[0]
    assert named(panel) == ["news", "forum", "one: mean of the tasks", "two: mean of the tasks", "kept"]
    assert panel.lines[-1].get_xydata().tolist() == [[10, 0.8]]


def test_chance_does_not_fill_a_panel(tmp_path: Path, drawn: list[Any]) -> None:
    charts.validation_chart("news", {"one": read(tmp_path, {"step": 1, "eval_macro_f1": 0.5, "eval_accuracy": 0.5})})
    low, high = drawn[0].axes[0].get_ylim()
    assert high - low >= 0.04 - 1e-9


def test_shares_are_called_by_the_experts_names_where_these_are_known(tmp_path: Path, drawn: list[Any]) -> None:
    found = read(tmp_path, *joint_lines())
    assert is_png(charts.routing_chart("joint", {"one": found}, ["news"]))
    shares, right = drawn[0].axes
    assert named(shares) == ["news", "expert 1"]
    assert right.lines[0].get_ydata().tolist() == [0.9, 0.9]


def test_twenty_experts_get_a_line_each(tmp_path: Path, drawn: list[Any]) -> None:
    lines = [step(i, **{f"share_{k}": 0.05 for k in range(20)}) for i in (1, 2)]
    assert is_png(charts.routing_chart("joint", {"one": read(tmp_path, *lines)}, []))
    assert len(drawn[0].axes[0].lines) == 20


def test_cost_has_a_panel_for_what_is_known(drawn: list[Any]) -> None:
    row = {"stage": "news", "run": "one", "wall_seconds": 9.0, "seconds_per_step": None, "peak_mib": 1234.5}
    other = row | {"run": "two", "peak_mib": None}
    assert is_png(charts.cost_chart("cost", [row, other]))
    assert [panel.get_title() for panel in drawn[0].axes] == ["stage (s)", "peak memory (MiB)"]
    assert [text.get_text() for text in drawn[0].axes[1].texts] == ["1,234", ""]


def test_where_there_is_nothing_nothing_is_drawn(tmp_path: Path) -> None:
    nothing = read(tmp_path)
    runs = {"one": nothing}
    assert charts.weights_chart("x", nothing, "inner") is None
    assert charts.losses_chart("x", runs) is None
    assert charts.validation_chart("x", runs) is None
    assert charts.routing_chart("x", runs, []) is None
    assert charts.cost_chart("x", []) is None


def test_a_single_step_is_a_dot(tmp_path: Path, drawn: list[Any]) -> None:
    found = read(tmp_path, step(1), evaluation(1, 0.5))
    assert is_png(charts.losses_chart("x", {"one": found}))
    assert drawn[0].axes[0].lines[0].get_marker() == "o"
