"""Claims about the pictures of results: drawn for any number of tasks and labels, none where there is nothing."""

import pytest

from moe.plots.results import LABEL_COLOURS, _colours, _text_colour, confusion_matrix_chart, heatmap_chart, label_distribution_chart


def confusion(labels: list[str], other: int = 0) -> dict[str, object]:
    rows = [[*(3 if i == j else 1 for j in range(len(labels))), other] for i in range(len(labels))]
    return {"confusion": {"labels": labels, "rows": rows}}


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_any_number_of_tasks_is_drawn(tasks: int) -> None:
    names = ["negative", "neutral", "positive"]
    found = {f"task-{i}": confusion(names if i % 2 else ["dovish", "hawkish"], i) for i in range(tasks)}
    drawn = confusion_matrix_chart(found)
    assert drawn is not None
    assert drawn.startswith(b"\x89PNG")
    splits = {"train": {"labels": dict.fromkeys(names, 5)}, "test": {"labels": {"neutral": 1}}}
    assert label_distribution_chart([{"task": name, "splits": splits} for name in found])


def test_shares_are_drawn_where_an_expert_is_missing_in_a_row() -> None:
    assert heatmap_chart("x", {"news": {"news": 0.7, "forum": 0.3}, "forum": {"forum": 1.0}}, "texts of", "expert")


def test_nothing_is_drawn_of_nothing() -> None:
    assert confusion_matrix_chart({"news": {}}) is None
    assert label_distribution_chart([]) is None
    assert label_distribution_chart([{"task": "qa", "splits": {"train": {"rows": 3}}}]) is None
    assert heatmap_chart("x", {}, "", "") is None


def test_a_sign_has_one_colour_everywhere_and_its_figure_can_be_read_on_it() -> None:
    assert _colours(["hawkish", "positive"]) == {"hawkish": LABEL_COLOURS["positive"], "positive": LABEL_COLOURS["positive"]}
    assert len(set(_colours(["a", "b", "c", "d"]).values())) == 4
    assert (_text_colour("#0072B2"), _text_colour("#B8B8B8")) == ("white", "black")
