"""Claims about goals: more is better of macro-F1, less of perplexity; reports find by which one stages were judged."""

from moe.runs.selection_metric import MACRO_F1, PERPLEXITY, selection_metric_of


def test_a_lower_perplexity_and_a_higher_macro_f1_are_worth_more() -> None:
    assert PERPLEXITY.score({"perplexity": 8.0}) > PERPLEXITY.score({"perplexity": 9.0})
    assert MACRO_F1.score({"macro_f1": 0.9}) > MACRO_F1.score({"macro_f1": 0.8})
    assert (MACRO_F1.describe({"macro_f1": 0.8}), PERPLEXITY.describe({"perplexity": 8.0})) == (
        "macro-F1 0.800",
        "perplexity 8.00",
    )


def test_stages_are_judged_by_the_goal_that_some_row_has() -> None:
    nothing = {"macro_f1": None, "perplexity": None}
    assert selection_metric_of([nothing]) is MACRO_F1
    assert selection_metric_of([nothing, {"macro_f1": None, "perplexity": 9.0}]) is PERPLEXITY
    assert selection_metric_of([{"macro_f1": 0.5, "perplexity": None}]) is MACRO_F1
