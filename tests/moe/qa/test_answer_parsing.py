"""Claims about parsing answers: what an answer states, and nothing if it states none or several."""

import pytest

from moe.qa.answer_parsing import normalize_text, parse_choice, parse_entities, parse_number

TONES = ("negative", "neutral", "positive")


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("positive", "positive"),
        (" Positive.\n", "positive"),
        ("The sentiment is neutral.", "neutral"),
        ("positive or negative", None),
        ("", None),
        ("I cannot say.", None),
        ("non-negatively put", None),
    ],
)
def test_choice_is_parsed_if_exactly_one_is_named(answer: str, choice: str | None) -> None:
    assert parse_choice(answer, TONES) == choice


def test_choice_inside_a_longer_one_does_not_count() -> None:
    assert parse_choice("It is a strong buy, I think", ("buy", "strong buy")) == "strong buy"
    assert parse_choice("out of claim", ("in claim", "out of claim")) == "out of claim"
    assert parse_choice("这是利好消息", ("利好", "利空")) is None, "words without spaces are not searched"
    assert parse_choice("利好", ("利好", "利空")) == "利好"


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("127.4", (127.4, False)),
        ("about $1,496.5 million", (1496.5, False)),
        ("-22.22%", (-22.22, True)),
        ("(12.6)", (-12.6, False)),
        ("−3", (-3.0, False)),
        ("14 percent (of 100)", (14.0, False)),
        (".5", (0.5, False)),
        ("none", None),
    ],
)
def test_first_number_is_parsed_with_its_sign_and_percent(answer: str, number: tuple[float, bool] | None) -> None:
    assert parse_number(answer) == number


def test_entities_are_parsed_line_by_line() -> None:
    assert parse_entities("Ann Lee, PER\nAcme, Inc., ORG") == {("ann lee", "PER"), ("acme inc", "ORG")}
    assert parse_entities("none") == set()
    assert parse_entities("There are some.") is None
    assert parse_entities("") is None


def test_normalized_text_has_no_articles_case_and_punctuation() -> None:
    assert normalize_text("The  fixed-price type!") == normalize_text("fixedprice type")
