"""Marks: from questions and what was said to them to accuracy, F1, MCC, exact match, entity F1 and what is missing.

What an answer says is `moe.qa.answer_parsing`'s. An answer that says none of what was asked for is missing: it is
wrong, and it is counted apart, never taken for one of the choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.metrics import matthews_corrcoef

from moe.bootstrap import TaskPredictions, interval_fields
from moe.data.prompt_templates import AnswerType
from moe.evaluation.metrics import OTHER_LABEL, classification
from moe.qa.answer_parsing import parse_choice, parse_entities, parse_number, normalize_text

TOLERANCE = 0.01
"""Share of a figure by which an answer may be off, so that rounding is no fault."""


@dataclass(frozen=True)
class EvalQuestion:
    """One question.

    Args:
        answer: what should be said.
        choices: what there is to choose from; empty where the answer is free.
        kind: how it is judged.
    """

    id: str
    task: str
    domain: str
    prompt: str
    answer: str
    choices: tuple[str, ...]
    kind: AnswerType


@dataclass(frozen=True)
class ScoredAnswer:
    """A question with what was said, what that was taken for (None: missing), and whether it is right."""

    asked: EvalQuestion
    said: str
    taken: str | None
    right: bool


def score_answer(asked: EvalQuestion, said: str) -> ScoredAnswer:
    """Judge one answer by its question's kind."""
    taken, right = _JUDGES[asked.kind](asked, said)
    return ScoredAnswer(asked, said, taken, right)


def _choice(asked: EvalQuestion, said: str) -> tuple[str | None, bool]:
    taken = parse_choice(said, asked.choices)
    return taken, taken == asked.answer


def _number(asked: EvalQuestion, said: str) -> tuple[str | None, bool]:
    """A figure by value; an answer in words, as some reports' questions have, word for word."""
    wanted = parse_number(asked.answer)
    if wanted is None or normalize_text(asked.answer)[:1].isalpha():
        return _text(asked, said)
    found = parse_number(said)
    if found is None:
        return None, False
    return said, any(abs(one - two) <= TOLERANCE * abs(two) for one in _meant(*found) for two in _meant(*wanted))


def _meant(value: float, percent: bool) -> tuple[float, ...]:
    """What a figure may stand for: 56.2% is 56.2 and .562."""
    return (value, value / 100) if percent else (value,)


def _entities(asked: EvalQuestion, said: str) -> tuple[str | None, bool]:
    found = parse_entities(said)
    return (None, False) if found is None else (said, found == parse_entities(asked.answer))


def _text(asked: EvalQuestion, said: str) -> tuple[str | None, bool]:
    return said.strip() or None, normalize_text(said) == normalize_text(asked.answer)


_JUDGES = {"choice": _choice, "number": _number, "entities": _entities, "text": _text}


def score_report(marked: Sequence[ScoredAnswer]) -> dict[str, Any]:
    """The figures of one task's answers, N ≥ 1.

    Returns:
        `rows`, `missing` (share), `accuracy` (share of right answers; exact match of free ones) with its interval; of
        choices also macro and weighted F1, `mcc` and all that `classification` tells; of entities their precision,
        recall and F1 over all rows.
    """
    kind = marked[0].asked.kind
    figures: dict[str, Any] = {"kind": kind, "missing": sum(one.taken is None for one in marked) / len(marked)}
    if kind == "choice":
        return figures | _chosen(marked)
    right = [int(one.right) for one in marked]
    ends = interval_fields([TaskPredictions.from_correct([right])])["accuracy_interval"]
    figures |= {"rows": len(marked), "accuracy": sum(right) / len(right), "accuracy_interval": ends}
    return figures | (_found(marked) if kind == "entities" else {})


def _chosen(marked: Sequence[ScoredAnswer]) -> dict[str, Any]:
    labels = list(dict.fromkeys(choice for one in marked for choice in one.asked.choices))
    true, said = [one.asked.answer for one in marked], [one.taken or OTHER_LABEL for one in marked]
    found = classification(true, said, labels) | interval_fields([TaskPredictions.from_labels(true, said, labels)])
    return found | {"mcc": float(matthews_corrcoef(true, said))}


def _found(marked: Sequence[ScoredAnswer]) -> dict[str, float]:
    pairs = [(parse_entities(one.asked.answer) or set(), parse_entities(one.said) or set()) for one in marked]
    both = sum(len(true & said) for true, said in pairs)
    said, true = sum(len(said) for _, said in pairs), sum(len(true) for true, _ in pairs)
    precision, recall = both / max(1, said), both / max(1, true)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}


def group_by_task(marked: Sequence[ScoredAnswer]) -> Mapping[str, list[ScoredAnswer]]:
    """Answers by task, in the order in which tasks come."""
    groups: dict[str, list[ScoredAnswer]] = {}
    for one in marked:
        groups.setdefault(one.asked.task, []).append(one)
    return groups
