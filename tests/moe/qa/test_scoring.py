"""Claims about scoring answers: a missing answer is counted separately and never as a class."""

import pytest

from experts.json_io import to_json
from moe.data.prompt_templates import AnswerType
from moe.qa.scoring import EvalQuestion, score_answer, score_report

TONES = ("negative", "neutral", "positive")


def question(answer: str, kind: AnswerType = "choice", choices: tuple[str, ...] = TONES) -> EvalQuestion:
    return EvalQuestion(
        id="1",
        task="task",
        domain="news",
        prompt="?",
        answer=answer,
        choices=choices if kind == "choice" else (),
        kind=kind,
    )


@pytest.mark.parametrize(
    ("reference", "output", "correct"),
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
def test_numbers_are_compared_within_one_percent_and_words_exactly(reference: str, output: str, correct: bool) -> None:
    assert score_answer(question(reference, "number"), output).correct is correct


def test_answer_that_names_no_choice_is_missing_and_wrong_but_no_class() -> None:
    outputs = ["positive", "dunno", "neutral", "negative or positive"]
    true = ["positive", "positive", "negative", "negative"]
    report = score_report([score_answer(question(label), output) for label, output in zip(true, outputs, strict=True)])
    assert report.missing == 0.5
    assert report.accuracy == 0.25
    assert to_json(report)["confusion"]["rows"] == [[0, 1, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]], (
        "the last column is no label's"
    )
    assert to_json(report)["per_class"]["positive"]["recall"] == 0.5


def test_correct_answers_have_perfect_metrics() -> None:
    report = score_report([score_answer(question(tone), f"It is {tone}.") for tone in TONES])
    assert (report.accuracy, report.macro_f1, report.mcc, report.missing) == (1.0, 1.0, 1.0, 0.0)
    assert report.accuracy_interval == [1.0, 1.0]


def test_entity_metrics_count_single_entities() -> None:
    rows = [("Ann, PER\nAcme, ORG", "Ann, PER\nBerlin, LOC"), ("none", "none"), ("Bob, PER", "well")]
    report = score_report([score_answer(question(reference, "entities"), output) for reference, output in rows])
    assert report.entity_precision == pytest.approx(1 / 2)
    assert report.entity_recall == pytest.approx(1 / 3)
    assert report.entity_f1 == pytest.approx(0.4)
    assert report.accuracy == pytest.approx(1 / 3)
    assert report.missing == pytest.approx(1 / 3)


def test_answer_without_a_number_is_missing() -> None:
    answer = score_answer(question("12", "number"), "no idea")
    assert (answer.parsed, answer.correct) == (None, False)
