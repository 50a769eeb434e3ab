"""Claims about `moe.data.prompt_templates`.

Records become questions and answers, FLARE's as they are, others by a template.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from moe.data.prepare import PreparedTask, prepare_task
from moe.data.prompt_templates import TEMPLATES, TemplateMismatch, answer_type, find_template, format_entities
from moe.data.schema import DataSettings, TaskSettings

TONES = ("negative", "neutral", "positive")
TABLE = [["", "2019", "2018"], ["Sales", "12", "10"]]


@pytest.mark.parametrize("name", ["fpb", "fiqa", "fomc", "headlines", "movement"])
def test_a_label_s_template_holds_the_text_and_every_choice_and_is_answered_by_the_label(name: str) -> None:
    asked = find_template(name).to_question({"text": "Profit rose."}, TONES, 2)
    assert "Profit rose." in asked.prompt
    assert "negative, neutral or positive" in asked.prompt
    assert (asked.answer, asked.choices, asked.text) == ("positive", TONES, "Profit rose.")
    assert answer_type(name, TONES) == "choice"


def test_a_row_in_flare_s_names_is_taken_as_it_is() -> None:
    row = {"query": "Rise or Fall?\nText: up", "answer": "Rise", "text": "up", "choices": ["Fall", "Rise"], "gold": 1}
    asked = find_template("fpb").to_question(row, (), None)
    assert (asked.prompt, asked.answer, asked.choices, asked.text) == (row["query"], "Rise", ("Fall", "Rise"), "up")
    with pytest.raises(TemplateMismatch, match="gold and answer differ"):
        find_template("fpb").to_question(row | {"gold": 0}, (), None)
    with pytest.raises(TemplateMismatch, match="none of the choices"):
        find_template("fpb").to_question(row | {"gold": None, "answer": "Sideways"}, (), None)


@pytest.mark.parametrize(
    ("answer", "scale", "said"),
    [
        (127.4, "", "127.4"),
        (12.0, "", "12"),
        (-22.22, "percent", "-22.22%"),
        (["$1,496.5"], "million", "$1,496.5 million"),
        (["fixed", "cost-plus"], "", "fixed, cost-plus"),
        (["5%"], "percent", "5%"),
    ],
)
def test_a_report_s_question_comes_after_its_table_and_its_answer_has_its_unit(
    answer: object, scale: str, said: str
) -> None:
    row = {"question": "How much?", "answer": answer, "scale": scale, "table": TABLE, "paragraphs": ["In dollars."]}
    asked = find_template("tatqa").to_question(row, (), None)
    assert asked.answer == said
    assert asked.prompt.index("In dollars.") < asked.prompt.index("Sales | 12 | 10") < asked.prompt.index("How much?")
    assert asked.prompt.endswith("Answer:")
    assert answer_type("tatqa", ()) == "number"


def test_names_are_asked_a_line_each_from_spans_or_tags() -> None:
    spans = {
        "text": "Ann Lee met Acme",
        "entities": [{"text": "Ann Lee", "label": "PER"}, {"text": "Acme", "label": "ORG"}],
    }
    tags = {"tokens": ["Ann", "Lee", "met", "Acme"], "ner_tags": ["B-PER", "I-PER", "O", "B-ORG"]}
    for row in (spans, tags):
        asked = find_template("ner").to_question(row, (), None)
        assert asked.answer == "Ann Lee, PER\nAcme, ORG"
        assert "Ann Lee met Acme" in asked.prompt
    assert format_entities([]) == "none"
    with pytest.raises(TemplateMismatch, match="differ in number"):
        find_template("ner").to_question(tags | {"ner_tags": ["O"]}, (), None)


def test_words_of_one_s_own_around_the_text_are_a_template() -> None:
    own = find_template("Good or bad? {text} →")
    assert own.to_question({"text": "up", "answer": "good"}, (), None).prompt == "Good or bad? up →"
    assert answer_type("Good or bad? {text} →", ()) == "text"
    assert answer_type("Good or bad? {text} →", ("good", "bad")) == "choice"
    with pytest.raises(TemplateMismatch, match="missing answer"):
        own.to_question({"text": "up"}, (), None)


def test_an_unknown_template_without_a_place_for_the_text_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"fpb.*template that contains \{text\}"):
        TaskSettings(ask="fbp")


def prepared(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> PreparedTask:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TaskSettings.model_validate({"split": {"ratios": [1, 0, 0]}} | settings)
    data = DataSettings(max_rejected=0.9, near_duplicates=None)
    return prepare_task(path, task, data, "quant", "asked", tmp_path / "prepared")


def test_a_file_of_questions_is_checked_row_by_row_and_needs_no_text_column(tmp_path: Path) -> None:
    good = [{"question": f"How much in {year}?", "answer": year / 2, "table": TABLE} for year in range(2000, 2004)]
    made = prepared(tmp_path, [*good, {"question": "How much?", "table": TABLE}], ask="finqa")
    rows = made.splits["train"]
    assert rows["answer"] == ["1000", "1000.5", "1001", "1001.5"]
    assert all("Question: How much in" in prompt for prompt in rows["prompt"])
    assert made.report["reasons"] == {"missing answer": 1}


def test_labels_are_counted_whether_a_row_has_a_label_or_an_answer(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "up", "label": "good"},
        {"query": "How is this? down", "answer": "bad", "text": "down"},
        {"query": "How is this? down", "answer": "sideways", "text": "down"},
    ]
    made = prepared(tmp_path, rows, ask="{text} is {choices}?", labels=["bad", "good"])
    assert made.report["splits"]["train"]["labels"] == {"bad": 1, "good": 1}
    assert made.splits["train"]["prompt"] == ["up is bad or good?", "How is this? down"]
    assert made.report["reasons"] == {"answer is none of the choices": 1}


def test_every_template_ends_where_the_answer_begins() -> None:
    assert all("{text}" in ask.frame for ask in TEMPLATES.values())
    assert all(ask.frame.endswith("Answer:") for name, ask in TEMPLATES.items() if name != "text")
