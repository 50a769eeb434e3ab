"""Tests for plots of results: label distribution, heat maps, confusion matrices."""

import pytest

from moe.data.task_reports import SplitSize, TaskReport
from moe.plots.colours import LABEL_COLOURS, label_colours
from moe.plots.results import (
    _legend_entry,
    _text_colour,
    confusion_matrix_chart,
    heatmap_chart,
    label_distribution_chart,
)
from moe.results.metrics import Confusion


def confusion(labels: list[str], other: int = 0) -> Confusion:
    rows = [[*(3 if i == j else 1 for j in range(len(labels))), other] for i in range(len(labels))]
    return Confusion(labels=labels, rows=rows)


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_charts_render_any_number_of_tasks(tasks: int) -> None:
    names = ["negative", "neutral", "positive"]
    tasks_by_name = {f"task-{i}": confusion(names if i % 2 else ["dovish", "hawkish"], i) for i in range(tasks)}
    png = confusion_matrix_chart(tasks_by_name)
    assert png is not None
    assert png.startswith(b"\x89PNG")
    splits = {"train": SplitSize(15, dict.fromkeys(names, 5)), "test": SplitSize(1, {"neutral": 1})}
    assert label_distribution_chart([TaskReport(task=name, splits=splits) for name in tasks_by_name])


def test_heatmap_renders_missing_values() -> None:
    assert heatmap_chart("x", {"news": {"news": 0.7, "forum": 0.3}, "forum": {"forum": 1.0}}, "texts of", "expert")


def test_charts_without_data_are_none() -> None:
    assert confusion_matrix_chart({}) is None
    assert label_distribution_chart([]) is None
    assert label_distribution_chart([TaskReport(task="qa", splits={"train": SplitSize(3)})]) is None
    assert heatmap_chart("x", {}, "", "") is None


def test_text_on_label_colours_has_contrast() -> None:
    assert (_text_colour("#0072B2"), _text_colour("#B8B8B8")) == ("white", "black")


def test_labels_of_one_colour_share_a_legend_entry_in_their_order() -> None:
    colours = label_colours(["negative", "neutral", "positive", "dovish", "hawkish", "claim"])
    assert _legend_entry("dovish", colours) == "negative, dovish"
    assert _legend_entry("claim", colours) == "claim"
    assert colours["hawkish"] == LABEL_COLOURS["positive"]
