"""Tests for what a run shows, in words."""

from result_samples import label_metrics

from moe.report.conclusions import (
    classes_never_predicted,
    describe_never_predicted,
    differences_tables,
    draw_conclusions,
)
from moe.results.metrics import TaskFigures
from moe.results.run import Difference, ModelDifference, RunSummary

FIGURES = {
    "tfidf": {"news": TaskFigures(macro_f1=0.5), "forum": TaskFigures(macro_f1=0.4)},
    "own expert": {"news": TaskFigures(macro_f1=0.6)},
    "moe-joint": {"news": TaskFigures(macro_f1=0.7), "forum": TaskFigures(macro_f1=0.5)},
}


def difference(value: float, low: float, high: float) -> ModelDifference:
    content = Difference(difference=value, interval=(low, high))
    return ModelDifference(mean=content, tasks={"news": content})


def test_conclusions_of_a_summary_are_used_as_they_are() -> None:
    assert draw_conclusions(RunSummary(conclusions=["so"], figures=FIGURES), "moe-joint") == ["so"]


def test_older_summary_is_compared_by_means_over_common_tasks() -> None:
    tfidf, own = draw_conclusions(RunSummary(figures=FIGURES), "moe-joint")
    assert "macro-F1 of 0.600 on test rows, TF-IDF 0.450 (+15.0 points, without an interval)" in tfidf
    assert "macro-F1 of 0.700 on test rows, its own experts 0.600" in own
    assert draw_conclusions(RunSummary(), None) == []


def test_differences_table_has_tasks_as_rows_and_the_mean_last() -> None:
    summary = RunSummary(best="moe-joint", differences={"tfidf": difference(0.06, 0.02, 0.1)})
    (table,) = differences_tables(summary)
    assert table.title.startswith("Macro-F1 of moe-joint")
    assert [row[0] for row in table.rows] == ["news", "mean"]
    assert table.rows[0][1] == "+6.0\n+2.0 to +10.0"
    assert list(differences_tables(RunSummary())) == []


def test_differences_of_scores_have_a_table_of_their_own() -> None:
    both = RunSummary(
        differences={"tfidf": difference(0.1, 0.0, 0.2)}, score_differences={"tfidf": difference(-0.02, -0.03, 0.01)}
    )
    titles = [table.title.split(" ")[0] for table in differences_tables(both)]
    assert titles == ["Macro-F1", "CCC"]


def test_class_never_predicted_is_named_unless_it_has_no_rows() -> None:
    tasks = {
        "macro": label_metrics(["dovish", "hawkish"], [[3, 0, 0], [2, 0, 0]]),
        "news": label_metrics(["negative", "neutral"], [[3, 0, 0], [0, 0, 0]]),
    }
    assert classes_never_predicted(tasks) == {"macro": ["hawkish"]}
    assert describe_never_predicted(tasks) == "never predicted: hawkish (macro)"
    assert describe_never_predicted({}) == ""
