"""How a record becomes a question and its answer: a template by name, one of your own, or a row that is both already.

Which records are rows is `moe.data.validation`'s; how they become tokens, `moe.inference.prompt_tokens`'s.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

AnswerType = Literal["choice", "number", "entities", "text"]
"""How an answer is judged: one of some, a figure, names with their types, or word for word."""
ENTITY_TYPES = ("PER", "ORG", "LOC")
QUERIES = ("query", "prompt", "instruction")
"""Columns that hold a whole question; a row with one of them and `answer` is taken as it is, as FLARE's are."""


class TemplateMismatch(Exception):
    """A record that cannot be asked: the kind of fault, and the value at fault."""

    def __init__(self, reason: str, found: object = "") -> None:
        super().__init__(reason)
        self.reason, self.found = reason, found


@dataclass(frozen=True)
class Question:
    """What is asked, and what should be said.

    Args:
        text: what the question is about, without its frame; by this two questions are told apart or alike.
        choices: the answers to choose from, where there are some.
    """

    text: str
    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class PromptTemplate:
    """A kind of question.

    Args:
        frame: the prompt, with {text} and, where there are some, {choices}.
        kind: how its answers are judged.
        parts: gives the text and the answer of a record that has no label.
    """

    frame: str
    kind: AnswerType = "choice"
    parts: Callable[[Mapping[str, Any]], tuple[str, str]] | None = None

    def to_question(self, values: Mapping[str, Any], labels: Sequence[str], label: int | None) -> Question:
        """What a record asks.

        Args:
            values: its columns.
            labels: the task's, if it has some.
            label: the index of the record's own.

        Raises:
            NoQuestion: when a column is missing or is not what it should be.
        """
        query = next((values[name] for name in QUERIES if values.get(name)), None)
        if query is not None and values.get("answer") is not None:
            return _whole(values, str(query), labels)
        if label is not None:
            text, answer = str(values.get("text") or ""), labels[label]
        elif self.parts is not None:
            text, answer = self.parts(values)
        else:
            raise TemplateMismatch("no label and no answer")
        return Question(text, self.fill(text, labels), answer, tuple(labels))

    def fill(self, text: str, labels: Sequence[str]) -> str:
        """The prompt about a text."""
        return self.frame.replace("{choices}", join_choices(labels)).replace("{text}", text)


def join_choices(choices: Sequence[str]) -> str:
    """`a, b or c`."""
    return f"{', '.join(choices[:-1])} or {choices[-1]}" if len(choices) > 1 else "".join(choices)


def find_template(name: str) -> PromptTemplate:
    """A template by its name, or one of your own: any words around {text}; its answers are labels, or `answer`."""
    return TEMPLATES[name] if name in TEMPLATES else PromptTemplate(name, "text", _plain)


def answer_type(name: str, labels: Sequence[str]) -> AnswerType:
    """How answers are judged; a template of your own with labels asks for one of them."""
    kind = find_template(name).kind
    return "choice" if kind == "text" and labels else kind


def _whole(values: Mapping[str, Any], query: str, labels: Sequence[str]) -> Question:
    """A row that holds its question and answer, in FLARE's names: query, answer, text, choices, gold."""
    answer = _spoken(values["answer"])
    choices = tuple(str(one) for one in _listed(values.get("choices"))) or tuple(labels)
    gold = values.get("gold")
    if choices and isinstance(gold, int) and 0 <= gold < len(choices) and choices[gold] != answer:
        raise TemplateMismatch("gold and answer differ", f"{choices[gold]} and {answer}")
    if choices and answer not in choices:
        raise TemplateMismatch("answer is none of the choices", answer)
    return Question(str(values.get("text") or query), query, answer, choices)


def _plain(values: Mapping[str, Any]) -> tuple[str, str]:
    if values.get("answer") in (None, ""):
        raise TemplateMismatch("missing answer")
    return str(values.get("text") or ""), _spoken(values["answer"])


def _reckoned(values: Mapping[str, Any]) -> tuple[str, str]:
    """A report with a table, a question and its answer, as FinQA and TAT-QA have them."""
    for name in ("question", "answer"):
        if values.get(name) in (None, "", []):
            raise TemplateMismatch(f"missing {name}")
    before = _listed(values.get("pre_text")) or _listed(values.get("paragraphs"))
    parts = [*map(str, before), _table(values.get("table")), *map(str, _listed(values.get("post_text")))]
    context = "\n".join(part for part in parts if part.strip(" ."))
    scale = str(values.get("scale") or "")
    answer = _spoken(values["answer"])
    unit = {"percent": "%", "": ""}.get(scale, f" {scale}")
    ends = "" if unit.strip() and unit.strip() in answer else unit
    return f"{context}\nQuestion: {values['question']}", answer + ends


def _named(values: Mapping[str, Any]) -> tuple[str, str]:
    """A sentence with its names: `entities` ({text, label} each), or `tokens` with BIO tags `ner_tags`."""
    if (tokens := _listed(values.get("tokens"))) and (tags := _listed(values.get("ner_tags"))):
        if len(tokens) != len(tags):
            raise TemplateMismatch("tokens and tags differ in number", f"{len(tokens)} and {len(tags)}")
        return " ".join(map(str, tokens)), format_entities(_spans(list(map(str, tokens)), list(map(str, tags))))
    found = values.get("entities")
    if not isinstance(found, list) or not all(
        isinstance(one, Mapping) and {"text", "label"} <= {*one} for one in found
    ):
        raise TemplateMismatch("missing entities")
    return str(values.get("text") or ""), format_entities((str(one["text"]), str(one["label"])) for one in found)


def format_entities(found: Iterable[tuple[str, str]]) -> str:
    """`name, TYPE` a line, as FLARE's named entities are answered; `none` where there is none."""
    return "\n".join(f"{name}, {kind}" for name, kind in found) or "none"


def _spans(tokens: list[str], tags: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[list[str], str]] = []
    inside = ""
    for token, tag in zip(tokens, tags, strict=True):
        begins, _, kind = tag.partition("-")
        if begins == "B" or (begins == "I" and kind != inside):
            found.append(([token], kind))
        elif begins == "I":
            found[-1][0].append(token)
        inside = kind
    return [(" ".join(words), kind) for words, kind in found]


def _table(rows: object) -> str:
    """A table's rows, a line each."""
    return "\n".join(" | ".join(map(str, _listed(row))) for row in _listed(rows))


def _listed(value: object) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []


def _spoken(answer: object) -> str:
    """An answer as it is written: a list's parts after another, a whole number without its point."""
    if isinstance(answer, (list, tuple)):
        return ", ".join(map(_spoken, answer))
    return str(int(answer)) if isinstance(answer, float) and answer.is_integer() else str(answer)


TEMPLATES: dict[str, PromptTemplate] = {
    "fpb": PromptTemplate(
        "What is the sentiment of this sentence from financial news? Say {choices}.\nText: {text}\nAnswer:"
    ),
    "fiqa": PromptTemplate(
        "What is the sentiment of this financial headline or post? Say {choices}.\nText: {text}\nAnswer:"
    ),
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
        "Answer the question by the report; give only the figure.\n{text}\nAnswer:", "number", _reckoned
    ),
    "tatqa": PromptTemplate(
        "Answer the question by the table and the text; give only the answer.\n{text}\nAnswer:", "number", _reckoned
    ),
    "ner": PromptTemplate(
        "Name the people (PER), organizations (ORG) and places (LOC) in this text, a line each: name, type.\n"
        "Text: {text}\nAnswer:",
        "entities",
        _named,
    ),
    "text": PromptTemplate("{text}", "text", _plain),
}
"""The templates that ship, by name."""
