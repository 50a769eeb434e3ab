"""Prediction over a stream of rows of any length, in order and in bounded memory."""

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
    """Predict a stream of rows, in order.

    Args:
        rows: each with `text`, and other columns to pass through (`id`, `line`); a row with `error` is returned as is.
        domain: restricts every text to the experts of this domain.
        task: the task to predict; by default that of `domain`, or of the text's most probable domain.

    Yields:
        the row with `label, probabilities{}, polarity, confidence, experts{}, routing_entropy, truncated, task`. If the
        predictor abstains, also `abstained`, and `label` is None where that is true.
    """
    stream = iter(rows)
    while chunk := list(islice(stream, predictor.chunk_size)):
        texts = [row["text"] for row in chunk if "error" not in row]
        predictions = iter(predict_texts(texts, predictor, domain, task) if texts else ())
        for row in chunk:
            yield row if "error" in row else row | to_row(next(predictions), predictor.experts)


def predict_texts(
    texts: Sequence[str], predictor: Predictor, domain: str | None = None, task: str | None = None
) -> list[Prediction]:
    """Predict texts (B), in order, all with the same domain and task."""
    return predict_each(texts, predictor, [domain] * len(texts), [task] * len(texts))


def predict_each(
    texts: Sequence[str], predictor: Predictor, domains: Sequence[str | None], tasks: Sequence[str | None]
) -> list[Prediction]:
    """Predict texts (B), in order, each with its own domain and task; None leaves them to the router."""
    scores = predictor.score(texts, domains if any(domains) else None)
    routed = predictor.routed_tasks(scores)
    defaults = [
        predictor.spec.tasks_of(domain)[0] if domain else task for domain, task in zip(domains, routed, strict=True)
    ]
    return predictor.to_predictions(scores, [task or default for task, default in zip(tasks, defaults, strict=True)])


def to_row(prediction: Prediction, experts: Sequence[str]) -> dict[str, Any]:
    """A prediction as plain JSON values, numbers rounded to 6 digits."""
    labels, weights = prediction.labels, prediction.routing_weights
    return {
        "label": None if prediction.abstained else prediction.label,
        "probabilities": {k: round(float(p), 6) for k, p in zip(labels, prediction.probabilities, strict=True)},
        "polarity": None if prediction.polarity is None else round(prediction.polarity, 6),
        "confidence": round(prediction.confidence, 6),
        "experts": {name: round(float(weight), 6) for name, weight in zip(experts, weights, strict=True)},
        "routing_entropy": round(prediction.entropy, 6),
        "truncated": prediction.truncated,
        "task": prediction.task,
    } | ({} if prediction.abstained is None else {"abstained": prediction.abstained})
