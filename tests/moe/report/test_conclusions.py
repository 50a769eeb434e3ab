"""Tests for what a run shows, in words."""

from moe.report.conclusions import (
    classes_never_predicted,
    describe_never_predicted,
    differences_table,
    draw_conclusions,
)

FIGURES = {
    "tfidf": {"news": {"macro_f1": 0.5}, "forum": {"macro_f1": 0.4}},
    "own expert": {"news": {"macro_f1": 0.6}},
    "moe-joint": {"news": {"macro_f1": 0.7}, "forum": {"macro_f1": 0.5}},
}


def difference(value: float, low: float, high: float) -> dict[str, object]:
    content = {"difference": value, "interval": [low, high]}
    return {"mean": content, "tasks": {"news": content}}


def test_conclusions_of_a_summary_are_used_as_they_are() -> None:
    assert draw_conclusions({"conclusions": ["so"], "figures": FIGURES}, "moe-joint") == ["so"]


def test_older_summary_is_compared_by_means_over_common_tasks() -> None:
    tfidf, own = draw_conclusions({"figures": FIGURES}, "moe-joint")
    assert "macro-F1 of 0.600 on test rows, TF-IDF 0.450 (+15.0 points, without an interval)" in tfidf
    assert "macro-F1 of 0.700 on test rows, its own experts 0.600" in own
    assert draw_conclusions({}, None) == []


def test_differences_table_has_tasks_as_rows_and_the_mean_last() -> None:
    table = differences_table({"best": "moe-joint", "differences": {"tfidf": difference(0.06, 0.02, 0.1)}})
    assert [row[0] for row in table.rows] == ["news", "mean"]
    assert table.rows[0][1] == "+6.0\n+2.0 to +10.0"
    assert differences_table({}).rows == []


def test_class_never_predicted_is_named_unless_it_has_no_rows() -> None:
    tasks = {
        "macro": {"confusion": {"labels": ["dovish", "hawkish"], "rows": [[3, 0, 0], [2, 0, 0]]}},
        "news": {"confusion": {"labels": ["negative", "neutral"], "rows": [[3, 0, 0], [0, 0, 0]]}},
        "scores": {},
    }
    assert classes_never_predicted(tasks) == {"macro": ["hawkish"]}
    assert describe_never_predicted(tasks) == "never predicted: hawkish (macro)"
    assert describe_never_predicted({}) == ""
