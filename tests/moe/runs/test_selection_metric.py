"""Tests of the selection metric: higher macro-F1 and lower perplexity are better."""

from moe.results.training import StageRow
from moe.runs.selection_metric import MACRO_F1, PERPLEXITY, selection_metric_of


def test_selection_metric_prefers_lower_perplexity_and_higher_macro_f1() -> None:
    assert PERPLEXITY.score({"perplexity": 8.0}) > PERPLEXITY.score({"perplexity": 9.0})
    assert MACRO_F1.score({"macro_f1": 0.9}) > MACRO_F1.score({"macro_f1": 0.8})
    assert (MACRO_F1.describe({"macro_f1": 0.8}), PERPLEXITY.describe({"perplexity": 8.0})) == (
        "macro-F1 0.800",
        "perplexity 8.00",
    )


def test_selection_metric_of_rows_is_the_one_with_a_value() -> None:
    no_value = StageRow.model_construct(macro_f1=None, perplexity=None)
    assert selection_metric_of([no_value]) is MACRO_F1
    assert selection_metric_of([no_value, no_value.model_copy(update={"perplexity": 9.0})]) is PERPLEXITY
    assert selection_metric_of([no_value.model_copy(update={"macro_f1": 0.5})]) is MACRO_F1
