"""Prompt templates: how a record becomes a question with its answer, by a built-in or a custom template."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

AnswerType = Literal["choice", "number", "entities", "text"]
"""What an answer is, and so how it is scored: one of several choices, a number, names with types, or free text."""
ENTITY_TYPES = ("PER", "ORG", "LOC")
QUERIES = ("query", "prompt", "instruction")
"""Columns that hold a complete question; a row with one of them and `answer` needs no template (as in FLARE)."""
QUESTION_COLUMNS = frozenset(
    {
        *QUERIES,
        *("text", "answer", "choices", "gold", "question", "scale"),
        *("pre_text", "paragraphs", "table", "post_text", "entities", "tokens", "ner_tags"),
    }
)
"""Columns that the templates read, besides the label and the target."""

_FIELD = re.compile(r"\{(choices|text|target)\}")


class TemplateMismatch(Exception):
    """A record that does not fit its template: the reason, and the invalid value."""

    def __init__(self, reason: str, value: object = "") -> None:
        super().__init__(reason)
        self.reason, self.value = reason, value


@dataclass(frozen=True)
class Question:
    """A prompt and its expected answer.

    Args:
        text: the text that the question is about, without the template; used to find duplicates.
        prompt: the complete prompt.
        answer: the expected answer.
        choices: answers to choose from, if there are any.
    """

    text: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptTemplate:
    """A template for one kind of question.

    Args:
        frame: the prompt, with {text} and, if there are choices, {choices}, and {target} for tasks with a target.
        kind: type of its answers.
        parse: returns the text and the answer of a record without a label; None if records need a label.
    """

    frame: str
    kind: AnswerType = "choice"
    parse: Callable[[Mapping[str, object]], tuple[str, str]] | None = None

    def to_question(
        self, values: Mapping[str, object], labels: Sequence[str], label: int | None, target: str | None = None
    ) -> Question:
        """Build the question of a record.

        Args:
            values: the record's columns.
            labels: the task's labels, if it has any.
            label: index of the record's label, or None.
            target: the entity that the question is about, or None.

        Raises:
            TemplateMismatch: if a column is missing or invalid.
        """
        query = next((values[name] for name in QUERIES if values.get(name)), None)
        if query is not None and values.get("answer") is not None:
            return _complete_question(values, str(query), labels)
        if label is not None:
            text, answer = str(values.get("text") or ""), labels[label]
        elif self.parse is not None:
            text, answer = self.parse(values)
        else:
            raise TemplateMismatch("no label and no answer")
        return Question(text, self.fill(text, labels, target), answer, tuple(labels))

    def fill(self, text: str, labels: Sequence[str], target: str | None = None) -> str:
        """Return the prompt about a text, and about a target in it if the template has a field for one."""
        values = {"choices": join_choices(labels), "text": text, "target": target or ""}
        return _FIELD.sub(lambda field: values[field[1]], self.frame)


def join_choices(choices: Sequence[str]) -> str:
    """Join choices as `a, b or c`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else "".join(choices)


def find_template(name: str) -> PromptTemplate:
    """Return a built-in template by name, or make one of a text with {text}, answered by the label or `answer`."""
    return TEMPLATES[name] if name in TEMPLATES else PromptTemplate(name, "text", _free_text)


def answer_type(name: str, labels: Sequence[str]) -> AnswerType:
    """Return the type of a template's answers; with labels, the answers of a custom template are choices."""
    kind = find_template(name).kind
    return "choice" if kind == "text" and labels else kind


def _complete_question(values: Mapping[str, Any], query: str, labels: Sequence[str]) -> Question:
    """Question of a row that holds it completely, in FLARE's columns: query, answer, text, choices, gold."""
    answer = _answer_text(values["answer"])
    choices = tuple(str(choice) for choice in _as_list(values.get("choices"))) or tuple(labels)
    gold = values.get("gold")
    if choices and isinstance(gold, int) and 0 <= gold < len(choices) and choices[gold] != answer:
        raise TemplateMismatch("gold and answer differ", f"{choices[gold]} and {answer}")
    if choices and answer not in choices:
        raise TemplateMismatch("answer is not among the choices", answer)
    return Question(str(values.get("text") or query), query, answer, choices)


def _free_text(values: Mapping[str, Any]) -> tuple[str, str]:
    if values.get("answer") in (None, ""):
        raise TemplateMismatch("missing answer")
    return str(values.get("text") or ""), _answer_text(values["answer"])


def _financial_report(values: Mapping[str, Any]) -> tuple[str, str]:
    """Report with a table, a question and its answer, in the columns of FinQA and TAT-QA."""
    for name in ("question", "answer"):
        if values.get(name) in (None, "", []):
            raise TemplateMismatch(f"missing {name}")
    before = _as_list(values.get("pre_text")) or _as_list(values.get("paragraphs"))
    parts = [*map(str, before), _format_table(values.get("table")), *map(str, _as_list(values.get("post_text")))]
    context = "\n".join(part for part in parts if part.strip(" ."))
    scale = str(values.get("scale") or "")
    answer = _answer_text(values["answer"])
    unit = {"percent": "%", "": ""}.get(scale, f" {scale}")
    suffix = "" if unit.strip() and unit.strip() in answer else unit
    return f"{context}\nQuestion: {values['question']}", answer + suffix


def _entities(values: Mapping[str, Any]) -> tuple[str, str]:
    """Sentence with named entities: a column `entities` ({text, label} each), or `tokens` with BIO tags `ner_tags`."""
    if (tokens := _as_list(values.get("tokens"))) and (tags := _as_list(values.get("ner_tags"))):
        if len(tokens) != len(tags):
            raise TemplateMismatch("different numbers of tokens and tags", f"{len(tokens)} and {len(tags)}")
        return " ".join(map(str, tokens)), format_entities(_bio_spans(list(map(str, tokens)), list(map(str, tags))))
    entities = values.get("entities")
    if not isinstance(entities, list) or not all(
        isinstance(entity, Mapping) and {"text", "label"} <= {*entity} for entity in entities
    ):
        raise TemplateMismatch("missing entities")
    pairs = ((str(entity["text"]), str(entity["label"])) for entity in entities)
    return str(values.get("text") or ""), format_entities(pairs)


def format_entities(entities: Iterable[tuple[str, str]]) -> str:
    """Format entities as lines `name, TYPE`, as FLARE does, or as `none` if there are none."""
    return "\n".join(f"{name}, {kind}" for name, kind in entities) or "none"


def _bio_spans(tokens: list[str], tags: list[str]) -> list[tuple[str, str]]:
    spans: list[tuple[list[str], str]] = []
    inside = ""
    for token, tag in zip(tokens, tags, strict=True):
        prefix, _, kind = tag.partition("-")
        if prefix == "B" or (prefix == "I" and kind != inside):
            spans.append(([token], kind))
        elif prefix == "I":
            spans[-1][0].append(token)
        inside = kind
    return [(" ".join(words), kind) for words, kind in spans]


def _format_table(rows: object) -> str:
    """Rows of a table, one line each."""
    return "\n".join(" | ".join(map(str, _as_list(row))) for row in _as_list(rows))


def _as_list(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _answer_text(answer: object) -> str:
    """Text of an answer: a list is joined by commas, an integral float loses its decimal point."""
    if isinstance(answer, (list, tuple)):
        return ", ".join(map(_answer_text, answer))
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


TEMPLATES: dict[str, PromptTemplate] = {
    "fpb": PromptTemplate(
        "What is the sentiment of this sentence from financial news? Say {choices}.\nText: {text}\nAnswer:"
    ),
    "fiqa": PromptTemplate(
        "What is the sentiment of this financial headline or post? Say {choices}.\nText: {text}\nAnswer:"
    ),
    "entity": PromptTemplate("What is the sentiment of this text for {target}? Say {choices}.\nText: {text}\nAnswer:"),
    "fomc": PromptTemplate(
        "Which stance on monetary policy does this sentence of a central bank take? Say {choices}.\n"
        "Text: {text}\nAnswer:"
    ),
    "headlines": PromptTemplate("What does this headline say of the price? Say {choices}.\nHeadline: {text}\nAnswer:"),
    "movement": PromptTemplate(
        "From these prices and tweets, will the stock's closing price rise or fall? Say {choices}.\n"
        "Context: {text}\nAnswer:"
    ),
    "finqa": PromptTemplate(
        "Answer the question by the report; give only the figure.\n{text}\nAnswer:", "number", _financial_report
    ),
    "tatqa": PromptTemplate(
        "Answer the question by the table and the text; give only the answer.\n{text}\nAnswer:",
        "number",
        _financial_report,
    ),
    "ner": PromptTemplate(
        "Name the people (PER), organizations (ORG) and places (LOC) in this text, a line each: name, type.\n"
        "Text: {text}\nAnswer:",
        "entities",
        _entities,
    ),
    "text": PromptTemplate("{text}", "text", _free_text),
}
"""Built-in templates by name."""
