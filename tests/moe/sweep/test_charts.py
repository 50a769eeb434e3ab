"""Claims about a sweep's table and pictures: what they run over, what is set apart, what is level."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from moe.sweep.charts import COLOURS, Axis, chart_axes, draw_charts, group_lines, numeric_values
from moe.sweep.grid import SweepPlan, read_plan, format_value
from moe.sweep.summary import format_settings, mean_and_sd, summarise, sweep_view

DEMO = "run: demo.yaml\nuntil: expert\ndomains: [news]\n"


def plan_of(folder: Path, text: str) -> SweepPlan:
    """The plan of a sweep over the demo."""
    (folder / "made.yaml").write_text(DEMO + text)
    return read_plan(folder / "made.yaml")


def content_of(plan: SweepPlan, mse: bool = True) -> dict[str, Any]:
    """A summary of made-up results, each point better than the one before."""
    points = plan.points(plan.grid())
    results = [
        {"point": point.key, "settings": point.values, "seed": seed, "parameters": 1000, "seconds": 10.0 + i + seed}
        | {"peak_mib": None if i else 100.0, "memory_of": "process"}
        | {
            split: {"accuracy": 0.5 + i / 100, "macro_f1": 0.5 + i / 100 + seed / 1000} | ({"mse": 0.2} if mse else {})
            for split in ("validation", "test")
        }
        for i, point in enumerate(points)
        for seed in plan.seeds_of(point)
    ]
    return summarise(plan, points, results) | {"failed": {"x/seed-1": "odd"}, "folder": "out", "charts": ["a.png"]}


def drawn(content: dict[str, Any], width: int = 120) -> str:
    """The table as text."""
    console = Console(width=width, record=True, file=StringIO())
    console.print(sweep_view(content))
    return console.export_text()


def test_a_picture_is_drawn_for_each_setting_that_is_a_number(tmp_path: Path) -> None:
    text = 'over: {"lora.r, lora.alpha": [[2, 4], [8, 4]], gate.kind: [soft, hard], lora.dropout: [0.1]}\nseeds: [1, 2]'
    plan = plan_of(tmp_path, text)
    assert chart_axes(plan) == [Axis("lora.r", ("lora.r", "lora.alpha"))]
    (picture,) = draw_charts(plan, content_of(plan), tmp_path)
    assert picture == tmp_path / "lora.r.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_number_inside_a_mapping_is_one(tmp_path: Path) -> None:
    text = "over: {losses.constants: [{classes: 0.1, polarity: 0.9}, {classes: 0.3, polarity: 0.7}]}"
    (axis,) = chart_axes(plan_of(tmp_path, text))
    assert axis.label == "losses.constants.classes"
    assert axis.at({"losses.constants": {"classes": 0.3}}) == 0.3
    assert axis.at({"losses.constants": {}}) is None
    assert numeric_values({"a": {"b": 1, "c": True}, "d": "x"}) == {"a.b": 1.0}


def test_lines_are_told_apart_by_the_other_settings_and_ordered_by_the_number(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "over: {lora.r: [8, 2, 4], gate.kind: [soft, hard]}")
    content = content_of(plan)
    (axis,) = chart_axes(plan)
    lines = group_lines(axis, content)
    assert [line.label for line in lines] == ["kind soft", "kind hard"]
    assert [[at for at, _ in line.along(axis)] for line in lines] == [[2, 4, 8]] * 2


def test_a_point_without_the_number_lies_level_beside_the_others(tmp_path: Path) -> None:
    values = "[[constant, {classes: 0.1}], [constant, {classes: 0.3}], [dao, {}]]"
    plan = plan_of(tmp_path, f'over: {{"losses.inner, losses.constants": {values}}}')
    (axis,) = chart_axes(plan)
    (line,) = group_lines(axis, content_of(plan))
    assert len(line.along(axis)) == 2
    assert [row["settings"]["losses.inner"] for row in line.beside(axis)] == ["dao"]
    assert draw_charts(plan, content_of(plan, mse=False), tmp_path)


def test_more_lines_than_colours_are_drawn_all_the_same(tmp_path: Path) -> None:
    dropouts = [round(0.01 * i, 2) for i in range(len(COLOURS) + 2)]
    plan = plan_of(tmp_path, f"over: {{lora.r: [2, 64], lora.dropout: {dropouts}}}")
    assert {path.name for path in draw_charts(plan, content_of(plan), tmp_path)} == {"lora.r.png", "lora.dropout.png"}


def test_the_table_marks_the_best_and_tells_spread_failures_and_files(tmp_path: Path) -> None:
    text = drawn(content_of(plan_of(tmp_path, "over: {lora.r: [2, 4]}\nseeds: [1, 3]")))
    assert "★ r 4" in text
    assert "0.502 ±0.001" in text
    assert "failed: x/seed-1: odd" in text
    assert "results.jsonl" in text
    assert "one seed, 13" in drawn(content_of(plan_of(tmp_path, "over: {lora.r: [2, 4]}")))


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_cuts_no_figure_short(width: int, tmp_path: Path) -> None:
    text = drawn(content_of(plan_of(tmp_path, "over: {lora.r: [2, 4], gate.kind: [soft, hard]}\nseeds: [1, 3]")), width)
    assert "…" not in text
    assert text.count("0.2000") == 4


def test_one_seed_has_no_spread_and_two_have_the_samples() -> None:
    assert mean_and_sd([0.5]) == {"mean": 0.5, "sd": None}
    assert mean_and_sd([0.4, 0.6])["sd"] == pytest.approx(0.1 * 2**0.5)


def test_settings_are_called_by_their_last_word_where_that_is_plain() -> None:
    assert format_settings({"lora.r": 4, "stages.expert.lr": 1e-3}) == "r 4, lr 0.001"
    assert (
        format_settings({"stages.expert.lr": 1e-3, "stages.joint.lr": 1e-4}) == "stages.expert.lr 0.001, stages.joint.lr 0.0001"
    )
    assert format_value({"classes": 0.05}) == "classes 0.05"
