"""Tests of the selection metric: higher macro-F1 and lower perplexity are better."""

from moe.results.training import StageRow
from moe.runs.selection_metric import (
    CCC,
    MACRO_F1,
    MEAN_OF_TASKS,
    PERPLEXITY,
    metric_of_rows,
    metric_of_stage,
    selection_title,
    selection_value,
)


def test_selection_metric_prefers_lower_perplexity_and_higher_macro_f1() -> None:
    assert PERPLEXITY.score({"perplexity": 8.0}) > PERPLEXITY.score({"perplexity": 9.0})
    assert MACRO_F1.score({"macro_f1": 0.9}) > MACRO_F1.score({"macro_f1": 0.8})
    assert (MACRO_F1.describe({"macro_f1": 0.8}), PERPLEXITY.describe({"perplexity": 8.0})) == (
        "macro-F1 0.800",
        "perplexity 8.00",
    )


def test_selection_metric_of_a_stage_is_the_one_with_a_value() -> None:
    no_value = StageRow.model_construct(macro_f1=None, perplexity=None)
    language, labels, scores = (no_value.model_copy(update={name: 0.5}) for name in ("perplexity", "macro_f1", "ccc"))
    both = labels.model_copy(update={"ccc": 0.3, "mean_of_tasks": 0.4})
    assert metric_of_stage(no_value) is None
    assert [metric_of_stage(row) for row in (language, labels, scores, both)] == [
        PERPLEXITY,
        MACRO_F1,
        CCC,
        MEAN_OF_TASKS,
    ]
    assert selection_title([no_value]) == "macro-F1"
    assert selection_title([no_value, language]) == "perplexity"
    assert selection_title([labels, scores, both]) == "macro-F1 or CCC or mean of macro-F1 and CCC"
    assert [selection_value(row) for row in (no_value, both)] == [(None, ".3f"), (0.4, ".3f")]


def test_rows_select_by_macro_f1_unless_they_have_scores_alone() -> None:
    assert metric_of_rows(labelled=False, scored=False) is MACRO_F1
    assert metric_of_rows(labelled=True, scored=False) is MACRO_F1
    assert metric_of_rows(labelled=False, scored=True) is CCC
    assert metric_of_rows(labelled=True, scored=True) is MEAN_OF_TASKS
