"""Tests for the table and the charts of a sweep."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moe.plots.style import to_png
from moe.sweep.charts import COLOURS, Axis, chart_axes, draw_charts, group_lines, numeric_values
from moe.sweep.grid import SweepPlan, Trial, format_value, read_plan
from moe.sweep.results import MeanSd, SplitFigures, SweepSummary, TrialResult
from moe.sweep.summary import format_settings, mean_and_sd, summarise, sweep_view

DEMO = "run: demo.yaml\nuntil: expert\ndomains: [news]\n"


def plan_of(folder: Path, text: str) -> SweepPlan:
    """Plan of a sweep over the demo."""
    (folder / "sweep.yaml").write_text(DEMO + text)
    return read_plan(folder / "sweep.yaml")


def content_of(plan: SweepPlan, mse: bool = True) -> SweepSummary:
    """Summary of synthetic results, in which each trial is better than the previous one."""
    trials = plan.trials(plan.grid())

    def result(i: int, trial: Trial, seed: int) -> TrialResult:
        accuracy = 0.5 + i / 100
        figures = SplitFigures(accuracy=accuracy, macro_f1=accuracy + seed / 1000, mse=0.2 if mse else None)
        return TrialResult(
            point=trial.key,
            settings=trial.values,
            seed=seed,
            validation=figures,
            test=figures,
            parameters=1000,
            seconds=10.0 + i + seed,
            peak_mib=None if i else 100.0,
            memory_of="process",
        )

    results = [result(i, trial, seed) for i, trial in enumerate(trials) for seed in plan.seeds_of(trial)]
    known = {"failed": {"x/seed-1": "odd"}, "folder": "out", "charts": ["a.png"]}
    return summarise(plan, trials, results).model_copy(update=known)


def render(content: SweepSummary, width: int = 120) -> str:
    """Return the table as text."""
    console = Console(width=width, record=True, file=StringIO())
    console.print(sweep_view(content))
    return console.export_text()


def test_one_chart_is_drawn_for_each_numeric_setting(tmp_path: Path) -> None:
    text = 'over: {"lora.r, lora.alpha": [[2, 4], [8, 4]], gate.kind: [soft, hard], lora.dropout: [0.1]}\nseeds: [1, 2]'
    plan = plan_of(tmp_path, text)
    assert chart_axes(plan) == [Axis("lora.r", ("lora.r", "lora.alpha"))]
    (chart,) = draw_charts(plan, content_of(plan), tmp_path)
    assert chart == tmp_path / "lora.r.png"
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_number_inside_a_mapping_is_a_chart_axis(tmp_path: Path) -> None:
    text = "over: {losses.constants: [{classes: 0.1, polarity: 0.9}, {classes: 0.3, polarity: 0.7}]}"
    (axis,) = chart_axes(plan_of(tmp_path, text))
    assert axis.label == "losses.constants.classes"
    assert axis.position({"losses.constants": {"classes": 0.3}}) == 0.3
    assert axis.position({"losses.constants": {}}) is None
    assert numeric_values({"a": {"b": 1, "c": True}, "d": "x"}) == {"a.b": 1.0}


def test_lines_are_grouped_by_the_other_settings_and_sorted_by_the_number(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "over: {lora.r: [8, 2, 4], gate.kind: [soft, hard]}")
    content = content_of(plan)
    (axis,) = chart_axes(plan)
    lines = group_lines(axis, content)
    assert [line.label for line in lines] == ["kind soft", "kind hard"]
    assert [[x for x, _ in line.along(axis)] for line in lines] == [[2, 4, 8]] * 2


def test_trial_without_the_number_is_a_baseline(tmp_path: Path) -> None:
    values = "[[constant, {classes: 0.1}], [constant, {classes: 0.3}], [dao, {}]]"
    plan = plan_of(tmp_path, f'over: {{"losses.inner, losses.constants": {values}}}')
    (axis,) = chart_axes(plan)
    (line,) = group_lines(axis, content_of(plan))
    assert len(line.along(axis)) == 2
    assert [row.settings["losses.inner"] for row in line.baselines(axis)] == ["dao"]
    assert draw_charts(plan, content_of(plan, mse=False), tmp_path)


def test_more_lines_than_colours_are_drawn(tmp_path: Path) -> None:
    dropouts = [round(0.01 * i, 2) for i in range(len(COLOURS) + 2)]
    plan = plan_of(tmp_path, f"over: {{lora.r: [2, 64], lora.dropout: {dropouts}}}")
    assert {path.name for path in draw_charts(plan, content_of(plan), tmp_path)} == {"lora.r.png", "lora.dropout.png"}


def test_ticks_of_many_values_over_several_magnitudes_are_plain_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: list[str] = []

    def draw(figure: Any, path: Path) -> None:
        assert to_png(figure)
        ticks.extend(label.get_text() for panel in figure.axes for label in panel.get_xticklabels())

    monkeypatch.setattr("moe.sweep.charts.save_figure", draw)
    rates = [round(1e-5 * 1.5**i, 8) for i in range(20)]
    plan = plan_of(tmp_path, f"over: {{stages.expert.lr: {rates}}}")
    draw_charts(plan, content_of(plan), tmp_path)
    assert "0.001" in ticks
    assert not [tick for tick in ticks if "$" in tick]


def test_table_marks_the_best_trial_and_shows_sd_failures_and_files(tmp_path: Path) -> None:
    text = render(content_of(plan_of(tmp_path, "over: {lora.r: [2, 4]}\nseeds: [1, 3]")))
    assert "★ r 4" in text
    assert "0.502 ±0.001" in text
    assert "failed: x/seed-1: odd" in text
    assert "results.jsonl" in text
    assert "one seed, 13" in render(content_of(plan_of(tmp_path, "over: {lora.r: [2, 4]}")))


@pytest.mark.parametrize("width", [80, 120])
def test_table_truncates_no_number(width: int, tmp_path: Path) -> None:
    text = render(
        content_of(plan_of(tmp_path, "over: {lora.r: [2, 4], gate.kind: [soft, hard]}\nseeds: [1, 3]")), width
    )
    assert "…" not in text
    assert text.count("0.2000") == 4


def test_sd_of_one_seed_is_none_and_of_two_the_sample_sd() -> None:
    assert mean_and_sd([0.5]) == MeanSd(mean=0.5, sd=None)
    assert mean_and_sd([0.4, 0.6]).sd == pytest.approx(0.1 * 2**0.5)


def test_settings_are_named_by_their_last_part_if_these_differ() -> None:
    assert format_settings({"lora.r": 4, "stages.expert.lr": 1e-3}) == "r 4, lr 0.001"
    assert (
        format_settings({"stages.expert.lr": 1e-3, "stages.joint.lr": 1e-4})
        == "stages.expert.lr 0.001, stages.joint.lr 0.0001"
    )
    assert format_value({"classes": 0.05}) == "classes 0.05"
