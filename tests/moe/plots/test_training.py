"""Tests for training plots."""

from pathlib import Path
from typing import Any

import pytest
from matplotlib.colors import to_hex
from training_logs import evaluation_line, joint_lines, step_line, write_log

from moe.plots import training as charts
from moe.plots.colours import DOMAIN_COLOURS, DomainColours
from moe.results.evaluation import MajorityLevel, TaskLevels, TfidfLevel
from moe.results.training import StageRow
from moe.runs.reader import RunDomain
from moe.runs.training_log import Trajectory, read_trajectory


def read(folder: Path, *lines: Any) -> Trajectory:
    """Write log lines and read them as a trajectory."""
    log = read_trajectory(write_log(folder, *lines))
    assert log is not None
    return log


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Figures that were rendered."""
    rendered: list[Any] = []
    to_png = charts.to_png

    def record(figure: Any, *args: Any, **kwargs: Any) -> bytes:
        rendered.append(figure)
        return to_png(figure, *args, **kwargs)

    monkeypatch.setattr(charts, "to_png", record)
    return rendered


def stage_row(stage: str, run: str = "one", peak_mib: float | None = None) -> StageRow:
    """A stage of nine seconds."""
    unknown = dict.fromkeys(("epochs", "kept_step", "macro_f1", "accuracy", "perplexity", "seconds"))
    unknown |= dict.fromkeys(("seconds_per_step", "memory_of", "device"))
    known = {"run": run, "stage": stage, "finished": True, "steps": 1, "wall_seconds": 9.0, "peak_mib": peak_mib}
    return StageRow.model_validate(known | unknown)


def is_png(content: bytes | None) -> bool:
    return content is not None and content.startswith(b"\x89PNG")


def legend_labels(panel: Any) -> list[str]:
    return panel.get_legend_handles_labels()[1]


def test_weights_chart_has_panels_by_batch_and_by_epoch(tmp_path: Path, figures: list[Any]) -> None:
    log = read(tmp_path, *joint_lines())
    assert is_png(charts.weights_chart("joint", log, "outer"))
    panels = figures[0].axes
    assert len(panels) == 8, "λ, w, c and the applied factor, by batch and by epoch"
    assert legend_labels(panels[0]) == ["sentiment", "domain", "balance"]
    assert panels[0].lines[0].get_xdata().tolist() == list(range(1, 21))
    assert panels[4].lines[0].get_xdata().tolist() == [1, 2]
    assert all(panel.get_xlabel() for panel in panels)


def test_weights_chart_below_two_epochs_has_no_row_of_means(tmp_path: Path, figures: list[Any]) -> None:
    assert is_png(charts.weights_chart("joint", read(tmp_path, *joint_lines(steps=8)), "inner"))
    assert len(figures[0].axes) == 3


def test_losses_chart_of_two_runs_shares_panels_and_names_the_smoothing(tmp_path: Path, figures: list[Any]) -> None:
    runs = {name: read(tmp_path / name, *joint_lines(steps=70)) for name in ("dao", "constant")}
    assert is_png(charts.losses_chart("joint", runs))
    panels = figures[0].axes
    assert len(panels) == 6
    labels = [f"{name}: mean over 3 steps (pale: every step)" for name in runs]
    assert [legend_labels(panel) for panel in panels] == [labels] * 6
    assert len(panels[0].lines) == 4, "each run smoothed, with its raw values behind"
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == labels


DOMAINS = [RunDomain("forum", {"forum": ("a", "b")}, ("forum",)), RunDomain("news", {"news": ("a", "b")}, ("news",))]
LEVELS = {
    task: TaskLevels(
        majority=MajorityLevel(accuracy=0.5, macro_f1=0.2, label="neutral"),
        tfidf=TfidfLevel(
            accuracy=0.6,
            accuracy_interval=(0.5, 0.7),
            macro_f1=value,
            macro_f1_interval=(0.5, 0.7),
            constant_accuracy=0.5,
            chance_macro_f1=0.3,
            rows=90,
            train_rows=90,
        ),
    )
    for task, value in (("news", 0.6), ("forum", 0.7))
}


def test_validation_chart_has_a_panel_for_the_mean_and_for_each_task(tmp_path: Path, figures: list[Any]) -> None:
    log = read(tmp_path, *joint_lines())
    assert is_png(charts.validation_chart("joint", {"one": log, "two": log}))
    panels = figures[0].axes
    assert [panel.get_title() for panel in panels] == ["mean macro-F1", "mean accuracy", "news", "forum"]
    assert legend_labels(panels[0]) == ["one", "two", "selected"]
    assert panels[0].lines[-1].get_xydata().tolist() == [[10, 0.8]]
    assert panels[2].lines[0].get_ydata().tolist() == pytest.approx([0.7, 0.6]), "the task's own macro-F1"


def test_validation_chart_draws_the_levels_of_baselines_with_their_names(tmp_path: Path, figures: list[Any]) -> None:
    charts.validation_chart("joint", {"one": read(tmp_path, *joint_lines())}, LEVELS)
    texts = [[text.get_text() for text in panel.texts] for panel in figures[0].axes]
    assert texts[0] == ["TF-IDF .650", "majority .200"], "means over the tasks"
    assert texts[2:] == [["TF-IDF .600", "majority .200"], ["TF-IDF .700", "majority .200"]]
    low, high = figures[0].axes[3].get_ylim()
    assert low < 0.2
    assert high > 0.7


def test_domain_has_the_same_colour_in_all_charts(tmp_path: Path, figures: list[Any]) -> None:
    log, colours = {"one": read(tmp_path, *joint_lines())}, DomainColours(DOMAINS)
    charts.validation_chart("joint", log, LEVELS, colours)
    charts.routing_chart("joint", log, ["news", "forum"], colours)
    charts.cost_chart("cost", [stage_row("news"), stage_row("forum")], colours)
    validation, routing, cost = figures
    curves = {panel.get_title(): panel.lines[0].get_color() for panel in validation.axes[2:]}
    lines = dict(
        zip(legend_labels(routing.axes[0]), [line.get_color() for line in routing.axes[0].lines], strict=False)
    )
    bars = [to_hex(bar.get_facecolor()).upper() for bar in cost.axes[0].patches]
    assert curves == lines == dict(zip(("news", "forum"), bars, strict=True))
    assert curves["forum"] == DOMAIN_COLOURS[0], "the first domain of the config"
    assert len(set(curves.values())) == 2


def test_validation_chart_shows_a_minimal_range(tmp_path: Path, figures: list[Any]) -> None:
    charts.validation_chart("news", {"one": read(tmp_path, {"step": 1, "eval_macro_f1": 0.5, "eval_accuracy": 0.5})})
    low, high = figures[0].axes[0].get_ylim()
    assert high - low >= 0.04 - 1e-9


def test_routing_chart_uses_the_names_of_known_experts(tmp_path: Path, figures: list[Any]) -> None:
    log = read(tmp_path, *joint_lines())
    assert is_png(charts.routing_chart("joint", {"one": log}, ["news"]))
    weights, accuracy = figures[0].axes
    assert legend_labels(weights) == ["news", "expert 1"]
    assert accuracy.lines[0].get_ydata().tolist() == [0.9, 0.9]


def test_routing_chart_has_one_line_for_each_of_twenty_experts(tmp_path: Path, figures: list[Any]) -> None:
    lines = [step_line(i, **{f"share_{k}": 0.05 for k in range(20)}) for i in (1, 2)]
    assert is_png(charts.routing_chart("joint", {"one": read(tmp_path, *lines)}, []))
    assert len(figures[0].axes[0].lines) == 20


def test_cost_chart_has_a_panel_for_each_known_cost(figures: list[Any]) -> None:
    row, other = stage_row("news", peak_mib=1234.5), stage_row("news", run="two")
    assert is_png(charts.cost_chart("cost", [row, other]))
    assert [panel.get_title() for panel in figures[0].axes] == ["stage (s)", "peak memory (MiB)"]
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["1,234", ""]


def test_charts_without_data_are_none(tmp_path: Path) -> None:
    empty = read(tmp_path)
    runs = {"one": empty}
    assert charts.weights_chart("x", empty, "inner") is None
    assert charts.losses_chart("x", runs) is None
    assert charts.validation_chart("x", runs) is None
    assert charts.routing_chart("x", runs, []) is None
    assert charts.cost_chart("x", []) is None


def test_losses_chart_of_a_single_step_is_a_dot(tmp_path: Path, figures: list[Any]) -> None:
    log = read(tmp_path, step_line(1), evaluation_line(1, 0.5))
    assert is_png(charts.losses_chart("x", {"one": log}))
    assert figures[0].axes[0].lines[0].get_marker() == "o"
