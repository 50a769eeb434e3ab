"""Claims about `moe.qa.scoring`: what is missing is counted apart and never taken for a class."""

import pytest

from moe.data.prompt_templates import AnswerType
from moe.qa.scoring import EvalQuestion, score_answer, score_report

TONES = ("negative", "neutral", "positive")


def asked(answer: str, kind: AnswerType = "choice", choices: tuple[str, ...] = TONES) -> EvalQuestion:
    return EvalQuestion("1", "task", "news", "?", answer, choices if kind == "choice" else (), kind)


@pytest.mark.parametrize(
    ("answer", "said", "right"),
    [
        ("0.56197", "56.2%", True),
        ("0.56197", "0.5620", True),
        ("0.56197", "56.2", False),
        ("-22.22%", "-22.2", True),
        ("127.4", "130", False),
        ("$1,496.5 million", "1496.5", True),
        ("0", "0.0", True),
        ("the customer", "Customer.", True),
        ("cost-plus, fixed", "fixed", False),
    ],
)
def test_figures_count_by_value_within_a_hundredth_and_words_word_for_word(answer: str, said: str, right: bool) -> None:
    assert score_answer(asked(answer, "number"), said).right is right


def test_an_answer_that_names_no_choice_is_missing_and_wrong_but_no_class() -> None:
    said = ["positive", "dunno", "neutral", "negative or positive"]
    true = ["positive", "positive", "negative", "negative"]
    found = score_report([score_answer(asked(answer), one) for answer, one in zip(true, said, strict=True)])
    assert found["missing"] == 0.5
    assert found["accuracy"] == 0.25
    assert found["confusion"]["rows"] == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]], "the last column is no label's"
    assert found["per_class"]["positive"]["recall"] == 0.5


def test_a_perfect_exam_has_perfect_figures() -> None:
    found = score_report([score_answer(asked(tone), f"It is {tone}.") for tone in TONES])
    assert (found["accuracy"], found["macro_f1"], found["mcc"], found["missing"]) == (1.0, 1.0, 1.0, 0.0)
    assert found["accuracy_interval"] == [1.0, 1.0]


def test_names_are_counted_one_by_one() -> None:
    rows = [("Ann, PER\nAcme, ORG", "Ann, PER\nBerlin, LOC"), ("none", "none"), ("Bob, PER", "well")]
    found = score_report([score_answer(asked(true, "entities"), said) for true, said in rows])
    assert found["entity_precision"] == pytest.approx(1 / 2)
    assert found["entity_recall"] == pytest.approx(1 / 3)
    assert found["entity_f1"] == pytest.approx(0.4)
    assert found["accuracy"] == pytest.approx(1 / 3)
    assert found["missing"] == pytest.approx(1 / 3)


def test_a_figure_without_a_figure_is_missing() -> None:
    one = score_answer(asked("12", "number"), "no idea")
    assert (one.taken, one.right) == (None, False)
