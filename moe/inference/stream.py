"""Texts in, answers out, one row each in its place: a bounded window over a stream of any length.

Answers are `moe.inference.predictor`'s; files are `moe.data`'s; how a person sees them is `moe.report.terminal`'s.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from moe.inference.predictor import Prediction, Predictor


def predict_rows(
    rows: Iterable[dict[str, Any]],
    predictor: Predictor,
    domain: str | None = None,
    task: str | None = None,
) -> Iterator[dict[str, Any]]:
    """Answer a stream of rows in order.

    Args:
        rows: each with `text`, and what else should be kept (`id`, `line`); a row with `error` is passed through.
        domain: pins every text to this domain's experts.
        task: the task to answer; by default that of the pinned or most probable domain.

    Yields:
        `label, probabilities{}, polarity, confidence, experts{}, routing_entropy, truncated, task`, or the row's
        `error`. Where the predictor abstains there is `abstained` too, and `label` is None where that is true.
    """
    stream = iter(rows)
    while window := list(islice(stream, predictor.chunk_size)):
        yield from _answer_window(window, predictor, domain, task)


def _answer_window(
    window: list[dict[str, Any]], predictor: Predictor, domain: str | None, task: str | None
) -> Iterator[dict[str, Any]]:
    good = [row["text"] for row in window if "error" not in row]
    answers = iter(predict_texts(good, predictor, domain, task) if good else ())
    for row in window:
        yield row if "error" in row else row | to_row(next(answers), predictor.model.bank.routed_experts)


def predict_texts(
    texts: Sequence[str], predictor: Predictor, domain: str | None = None, task: str | None = None
) -> list[Prediction]:
    """Answer texts (B), in their order."""
    return predict_each(texts, predictor, [domain] * len(texts), [task] * len(texts))


def predict_each(
    texts: Sequence[str], predictor: Predictor, domains: Sequence[str | None], tasks: Sequence[str | None]
) -> list[Prediction]:
    """Answer texts (B), each pinned to its own domain and asked its own task, where it has one; in their order."""
    scores = predictor.score(texts, domains if any(domains) else None)
    routed, labels = predictor.routed_tasks(scores), predictor.model.labels
    usual = [labels.tasks_of(domain)[0] if domain else task for domain, task in zip(domains, routed, strict=True)]
    return predictor.to_predictions(scores, [task or other for task, other in zip(tasks, usual, strict=True)])


def to_row(answer: Prediction, experts: Sequence[str]) -> dict[str, Any]:
    """An answer as plain JSON values."""
    return {
        "label": None if answer.abstained else answer.label,
        "probabilities": {k: round(float(p), 6) for k, p in zip(answer.labels, answer.probabilities, strict=True)},
        "polarity": None if answer.polarity is None else round(answer.polarity, 6),
        "confidence": round(answer.confidence, 6),
        "experts": {name: round(float(s), 6) for name, s in zip(experts, answer.routing_weights, strict=True)},
        "routing_entropy": round(answer.entropy, 6),
        "truncated": answer.truncated,
        "task": answer.task,
    } | ({} if answer.abstained is None else {"abstained": answer.abstained})
