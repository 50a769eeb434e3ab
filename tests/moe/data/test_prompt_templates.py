"""Prompt templates turn records into questions with answers; complete questions (as in FLARE) need none."""

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
def test_template_of_a_labelled_task_holds_text_and_choices(name: str) -> None:
    question = find_template(name).to_question({"text": "Profit rose."}, TONES, 2)
    assert "Profit rose." in question.prompt
    assert "negative, neutral or positive" in question.prompt
    assert (question.answer, question.choices, question.text) == ("positive", TONES, "Profit rose.")
    assert answer_type(name, TONES) == "choice"


def test_template_leaves_a_complete_question_unchanged() -> None:
    row = {"query": "Rise or Fall?\nText: up", "answer": "Rise", "text": "up", "choices": ["Fall", "Rise"], "gold": 1}
    question = find_template("fpb").to_question(row, (), None)
    assert (question.prompt, question.answer, question.choices, question.text) == (
        row["query"],
        "Rise",
        ("Fall", "Rise"),
        "up",
    )
    with pytest.raises(TemplateMismatch, match="gold and answer differ"):
        find_template("fpb").to_question(row | {"gold": 0}, (), None)
    with pytest.raises(TemplateMismatch, match="not among the choices"):
        find_template("fpb").to_question(row | {"gold": None, "answer": "Sideways"}, (), None)


@pytest.mark.parametrize(
    ("answer", "scale", "expected"),
    [
        (127.4, "", "127.4"),
        (12.0, "", "12"),
        (-22.22, "percent", "-22.22%"),
        (["$1,496.5"], "million", "$1,496.5 million"),
        (["fixed", "cost-plus"], "", "fixed, cost-plus"),
        (["5%"], "percent", "5%"),
    ],
)
def test_template_of_a_report_puts_the_question_last_and_adds_the_unit(
    answer: object, scale: str, expected: str
) -> None:
    row = {"question": "How much?", "answer": answer, "scale": scale, "table": TABLE, "paragraphs": ["In dollars."]}
    question = find_template("tatqa").to_question(row, (), None)
    assert question.answer == expected
    assert (
        question.prompt.index("In dollars.")
        < question.prompt.index("Sales | 12 | 10")
        < question.prompt.index("How much?")
    )
    assert question.prompt.endswith("Answer:")
    assert answer_type("tatqa", ()) == "number"


def test_template_of_entities_accepts_spans_or_tags() -> None:
    spans = {
        "text": "Ann Lee met Acme",
        "entities": [{"text": "Ann Lee", "label": "PER"}, {"text": "Acme", "label": "ORG"}],
    }
    tags = {"tokens": ["Ann", "Lee", "met", "Acme"], "ner_tags": ["B-PER", "I-PER", "O", "B-ORG"]}
    for row in (spans, tags):
        question = find_template("ner").to_question(row, (), None)
        assert question.answer == "Ann Lee, PER\nAcme, ORG"
        assert "Ann Lee met Acme" in question.prompt
    assert format_entities([]) == "none"
    with pytest.raises(TemplateMismatch, match="different numbers of tokens and tags"):
        find_template("ner").to_question(tags | {"ner_tags": ["O"]}, (), None)


def test_template_may_be_any_text_with_a_placeholder() -> None:
    custom = find_template("Good or bad? {text} →")
    assert custom.to_question({"text": "up", "answer": "good"}, (), None).prompt == "Good or bad? up →"
    assert answer_type("Good or bad? {text} →", ()) == "text"
    assert answer_type("Good or bad? {text} →", ("good", "bad")) == "choice"
    with pytest.raises(TemplateMismatch, match="missing answer"):
        custom.to_question({"text": "up"}, (), None)


def test_task_settings_refuse_an_unknown_template_without_a_placeholder() -> None:
    with pytest.raises(ValidationError, match=r"fpb.*template that contains \{text\}"):
        TaskSettings(ask="fbp")


def prepared(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> PreparedTask:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = TaskSettings.model_validate({"split": {"ratios": [1, 0, 0]}} | settings)
    data = DataSettings(max_rejected=0.9, near_duplicates=None)
    return prepare_task(path, task, data, "quant", "questions", tmp_path / "prepared")


def test_prepare_of_questions_needs_no_text_column(tmp_path: Path) -> None:
    good = [{"question": f"How much in {year}?", "answer": year / 2, "table": TABLE} for year in range(2000, 2004)]
    result = prepared(tmp_path, [*good, {"question": "How much?", "table": TABLE}], ask="finqa")
    rows = result.splits["train"]
    assert rows["answer"] == ["1000", "1000.5", "1001", "1001.5"]
    assert all("Question: How much in" in prompt for prompt in rows["prompt"])
    assert result.report.reasons == {"missing answer": 1}


def test_prepare_of_questions_counts_labels_given_as_answers(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "up", "label": "good"},
        {"query": "How is this? down", "answer": "bad", "text": "down"},
        {"query": "How is this? down", "answer": "sideways", "text": "down"},
    ]
    result = prepared(tmp_path, rows, ask="{text} is {choices}?", labels=["bad", "good"])
    assert result.report.splits["train"].labels == {"bad": 1, "good": 1}
    assert result.splits["train"]["prompt"] == ["up is bad or good?", "How is this? down"]
    assert result.report.reasons == {"answer is not among the choices": 1}


def test_templates_end_where_the_answer_begins() -> None:
    assert all("{text}" in template.frame for template in TEMPLATES.values())
    assert all(template.frame.endswith("Answer:") for name, template in TEMPLATES.items() if name != "text")
