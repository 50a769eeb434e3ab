"""Marks: from questions and what was said to them to accuracy, F1, MCC, exact match, entity F1 and what is missing.

What an answer says is `moe.qa.answer_parsing`'s. An answer that says none of what was asked for is missing: it is
wrong, and it is counted apart, never taken for one of the choices.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sklearn.metrics import matthews_corrcoef

from moe.bootstrap import Answers, interval_ends
from moe.data.prompt_templates import Kind
from moe.evaluation.metrics import ELSE, classification
from moe.qa.answer_parsing import chosen, entities, number, plain

TOLERANCE = 0.01
"""Share of a figure by which an answer may be off, so that rounding is no fault."""


@dataclass(frozen=True)
class Asked:
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
    kind: Kind


@dataclass(frozen=True)
class Marked:
    """A question with what was said, what that was taken for (None: missing), and whether it is right."""

    asked: Asked
    said: str
    taken: str | None
    right: bool


def mark(asked: Asked, said: str) -> Marked:
    """Judge one answer by its question's kind."""
    taken, right = _JUDGES[asked.kind](asked, said)
    return Marked(asked, said, taken, right)


def _choice(asked: Asked, said: str) -> tuple[str | None, bool]:
    taken = chosen(said, asked.choices)
    return taken, taken == asked.answer


def _number(asked: Asked, said: str) -> tuple[str | None, bool]:
    """A figure by value; an answer in words, as some reports' questions have, word for word."""
    wanted = number(asked.answer)
    if wanted is None or plain(asked.answer)[:1].isalpha():
        return _text(asked, said)
    found = number(said)
    if found is None:
        return None, False
    return said, any(abs(one - two) <= TOLERANCE * abs(two) for one in _meant(*found) for two in _meant(*wanted))


def _meant(value: float, percent: bool) -> tuple[float, ...]:
    """What a figure may stand for: 56.2% is 56.2 and .562."""
    return (value, value / 100) if percent else (value,)


def _entities(asked: Asked, said: str) -> tuple[str | None, bool]:
    found = entities(said)
    return (None, False) if found is None else (said, found == entities(asked.answer))


def _text(asked: Asked, said: str) -> tuple[str | None, bool]:
    return said.strip() or None, plain(said) == plain(asked.answer)


_JUDGES = {"choice": _choice, "number": _number, "entities": _entities, "text": _text}


def report(marked: Sequence[Marked]) -> dict[str, Any]:
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
    ends = interval_ends([Answers.of_right([right])])["accuracy_interval"]
    figures |= {"rows": len(marked), "accuracy": sum(right) / len(right), "accuracy_interval": ends}
    return figures | (_found(marked) if kind == "entities" else {})


def _chosen(marked: Sequence[Marked]) -> dict[str, Any]:
    labels = list(dict.fromkeys(choice for one in marked for choice in one.asked.choices))
    true, said = [one.asked.answer for one in marked], [one.taken or ELSE for one in marked]
    found = classification(true, said, labels) | interval_ends([Answers.of(true, said, labels)])
    return found | {"mcc": float(matthews_corrcoef(true, said))}


def _found(marked: Sequence[Marked]) -> dict[str, float]:
    pairs = [(entities(one.asked.answer) or set(), entities(one.said) or set()) for one in marked]
    both = sum(len(true & said) for true, said in pairs)
    said, true = sum(len(said) for _, said in pairs), sum(len(true) for true, _ in pairs)
    precision, recall = both / max(1, said), both / max(1, true)
    f1 = 2 * precision * recall / (precision + recall) if both else 0.0
    return {"entity_precision": precision, "entity_recall": recall, "entity_f1": f1}


def by_task(marked: Sequence[Marked]) -> Mapping[str, list[Marked]]:
    """Answers by task, in the order in which tasks come."""
    groups: dict[str, list[Marked]] = {}
    for one in marked:
        groups.setdefault(one.asked.task, []).append(one)
    return groups
