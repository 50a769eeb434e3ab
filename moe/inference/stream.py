"""Prediction over a stream of rows of any length, in order and in bounded memory."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import cast

from moe.data.text_checks import contains_target, is_blank, target_problem
from moe.inference.finite import NonFiniteScores, raise_first
from moe.inference.predictor import Prediction, Predictor
from moe.inference.rows import PredictionRow, Row
from moe.inference.text_io import free_name
from moe.kinds.registry import task_kind


def predict_rows(
    rows: Iterable[Mapping[str, object]],
    predictor: Predictor,
    domain: str | None = None,
    task: str | None = None,
) -> Iterator[Row]:
    """Predict a stream of rows, in order.

    Args:
        rows: each with `text`, and other columns to pass through (`id`, `line`); a row with `error` is returned as is.
            A row with a `target` is predicted for this entity, if the task (or, without a task, the model) has a
            target; otherwise its target is dropped. A blank target is none.
        domain: restricts every text to the experts of this domain.
        task: the task to predict; by default that of `domain`, or of the text's most probable domain.

    Yields:
        the row with its `PredictionRow`. A row whose target is missing or not a string, or for which the model's output
        is not finite, has an `error` instead.
        Where a row has a column of such a name, that of the prediction has the prefix `predicted_`.
    """
    stream = iter(rows)
    while chunk := list(islice(stream, predictor.chunk_size)):
        checked = [row if "error" in row else _check_target(row, predictor, task) for row in chunk]
        valid = [row for row in checked if "error" not in row]
        texts = cast(list[str], [row["text"] for row in valid])
        targets = cast(list[str | None], [row.get("target") for row in valid])
        pins, tasks = [domain] * len(texts), [task] * len(texts)
        predictions = iter(predict_or_fail(texts, predictor, pins, tasks, targets) if texts else ())
        for row in checked:
            yield dict(row) if "error" in row else _with_prediction(row, next(predictions), predictor.experts)


def _with_prediction(
    row: Mapping[str, object], prediction: Prediction | NonFiniteScores, experts: Sequence[str]
) -> Row:
    if isinstance(prediction, NonFiniteScores):
        return {**row, "error": f"no finite answer: {prediction.found}"}
    return add_prediction(row, to_row(prediction, experts))


def add_prediction(row: Mapping[str, object], prediction: Mapping[str, object]) -> Row:
    """Return a row with its prediction; columns of the row keep their values, except its target in its cleaned form."""
    own = row.keys() - {"target"}
    if not own & prediction.keys():
        return {**row, **prediction}
    return {**row, **{free_name(name, own): value for name, value in prediction.items()}}


def _check_target(row: Mapping[str, object], predictor: Predictor, task: str | None) -> Mapping[str, object]:
    """A row with its target as a string or None, without the key if targets are not read, or with an error."""
    if not predictor.spec.reads_targets(task):
        return {key: value for key, value in row.items() if key != "target"}
    target = row.get("target")
    if not is_blank(target):
        problem = target_problem(target)
        return {**row, "target": str(target), "error": problem} if problem else row
    if predictor.spec.needs_target(task):
        return {**row, "target": None, "error": "missing target"}
    return {**row, "target": None} if "target" in row else row


def predict_texts(
    texts: Sequence[str],
    predictor: Predictor,
    domain: str | None = None,
    task: str | None = None,
    targets: Sequence[str | None] | None = None,
) -> list[Prediction]:
    """Predict texts (B), in order, all with the same domain and task, each for its own target or None."""
    return predict_each(texts, predictor, [domain] * len(texts), [task] * len(texts), targets)


def predict_each(
    texts: Sequence[str],
    predictor: Predictor,
    domains: Sequence[str | None],
    tasks: Sequence[str | None],
    targets: Sequence[str | None] | None = None,
) -> list[Prediction]:
    """Predict texts (B), in order, each with its own domain, task and target; None leaves them to the router.

    Args:
        targets: for each text the entity that the prediction is about, or None; by default no text has one.

    Raises:
        NonFiniteScores: if the model's output for a text is NaN or infinite.
    """
    return raise_first(predict_or_fail(texts, predictor, domains, tasks, targets))


def predict_or_fail(
    texts: Sequence[str],
    predictor: Predictor,
    domains: Sequence[str | None],
    tasks: Sequence[str | None],
    targets: Sequence[str | None] | None = None,
) -> list[Prediction | NonFiniteScores]:
    """Predict texts (B) as `predict_each`, with a fault for each text for which the model's output is not finite."""
    names = targets if targets is not None and any(targets) else None
    pins = domains if any(domains) else None
    scores = predictor.score(texts, pins) if names is None else predictor.score(texts, pins, names)
    each = [None] * len(texts) if names is None else names
    defaults = [
        (predictor.spec.default_task(domain, bool(target)) or routed) if domain else routed
        for domain, routed, target in zip(domains, predictor.routed_tasks(scores, names), each, strict=True)
    ]
    chosen = [task or default for task, default in zip(tasks, defaults, strict=True)]
    predictions = predictor.to_predictions_or_faults(scores, chosen)
    if names is None:
        return predictions
    cut = [False] * len(texts) if scores.target_truncated is None else scores.target_truncated.tolist()
    return [
        prediction
        if target is None or isinstance(prediction, NonFiniteScores)
        else replace(
            prediction, target=target, target_missing=not contains_target(text, target), target_truncated=is_cut
        )
        for prediction, text, target, is_cut in zip(predictions, texts, names, cut, strict=True)
    ]


def to_row(prediction: Prediction, experts: Sequence[str]) -> PredictionRow:
    """A prediction as plain JSON values."""
    labels, weights = prediction.labels, prediction.routing_weights
    no_label = prediction.abstained or not prediction.has_labels
    row: PredictionRow = {
        "label": None if no_label else prediction.label,
        "probabilities": {k: round(float(p), 6) for k, p in zip(labels, prediction.probabilities, strict=True)},
        "polarity": None if prediction.polarity is None else round(prediction.polarity, 6),
        "confidence": round(prediction.confidence, 6) if prediction.has_labels else None,
        "experts": {name: round(float(weight), 6) for name, weight in zip(experts, weights, strict=True)},
        "routing_entropy": round(prediction.entropy, 6),
        "truncated": prediction.truncated,
        "task": prediction.task,
    }
    if task_kind(prediction.kind).is_set:
        row["labels"] = None if prediction.abstained else [labels[i] for i in prediction.chosen]
    if prediction.abstained is not None:
        row["abstained"] = prediction.abstained
    if prediction.label_set is not None:
        row["label_set"] = list(prediction.label_set)
    if prediction.target is not None:
        row["target"] = prediction.target
    if prediction.target_missing:
        row["target_missing"] = True
    if prediction.windows != 1:
        row["windows"] = prediction.windows
    if prediction.target_truncated:
        row["target_truncated"] = True
    if prediction.unfamiliar:
        row["unfamiliar"] = True
    return row
