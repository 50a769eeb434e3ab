"""Frozen features of texts: a mixture's pooled states and log-probabilities, or the states of its bare backbone.

A model that was trained on a text with a wrong label may repeat it, so its features are not out of fold there. The
backbone without experts has seen no label at all.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import log_softmax

from experts.errors import Fault, check_choice
from moe.console import info, progress_bar
from moe.inference.finite import NonFiniteScores
from moe.inference.per_expert import predict_per_expert
from moe.inference.predictor import Prediction
from moe.inference.torch_predictor import TorchPredictor
from moe.inference.windows import Scores
from moe.labels.training_texts import find_trained_texts
from moe.model.mode import RoutingMode
from moe.runs.model_ref import ModelRef

FeatureSource = Literal["mixture", "backbone"]
FeatureChoice = Literal["auto", "mixture", "backbone"]
FEATURE_CHOICES: tuple[FeatureChoice, ...] = get_args(FeatureChoice)


@dataclass(frozen=True)
class TextFeatures:
    """Features of N texts.

    Args:
        inputs: (N, F), what a classifier of labels reads.
        states: (N, D), pooled states.
        probabilities: (N, K), the model's own for the task that answers each text; 0 beyond its labels. None for the
            backbone alone.
        answers: the model's most probable label of each text; empty for the backbone alone.
    """

    inputs: np.ndarray
    states: np.ndarray
    probabilities: np.ndarray | None = None
    answers: Sequence[str] = ()


def check_features(name: str) -> FeatureChoice:
    """Check the name of the features and return it.

    Raises:
        Fault: if there are no such features.
    """
    return check_choice(name, FEATURE_CHOICES, "--features")


def choose_features(choice: FeatureChoice, ref: ModelRef, texts: Sequence[str]) -> tuple[FeatureSource, int | None]:
    """Return the features for labelled texts, and how many of them the model was trained on; None if unknown.

    `auto` is the mixture, unless it was trained on one of the texts.
    """
    trained = find_trained_texts(ref, texts)
    count = None if trained is None else int(trained.sum())
    if choice != "auto":
        return choice, count
    if count:
        info(f"{count} of {len(texts)} labelled texts trained this model: features of its backbone without experts")
    if count is None and ref.source != "ready":
        info(
            f"the training rows of {ref.folder} are not beside it; if labelled texts of the file trained it, use "
            "--features backbone"
        )
    return ("backbone" if count else "mixture"), count


def compute_features(
    predictor: TorchPredictor,
    texts: Sequence[str],
    targets: Sequence[str | None],
    *,
    source: FeatureSource = "mixture",
    task: str | None = None,
    quiet: bool = True,
) -> TextFeatures:
    """Compute the features of texts (N), with their targets, if any.

    Args:
        predictor: of the model.
        texts: at least one.
        targets: entity of each text, or None.
        source: `mixture` gives its states and the log-probabilities of every head; `backbone` its states without
            experts.
        task: the task of `probabilities`; by default that of each text's most probable domain.
        quiet: show no progress bar.

    Raises:
        NonFiniteScores: if the model's output for a text is NaN or infinite.
    """
    bare = source == "backbone"
    mode = RoutingMode(without=tuple(predictor.model.bank.adapters)) if bare else predictor.mode
    states, heads = [], []
    predictions: list[Prediction] = []
    for scores, chunk_targets in _scores(predictor.with_states().with_mode(mode), texts, targets, quiet):
        if scores.states is None or not np.isfinite(scores.states).all():
            raise NonFiniteScores("states")
        states.append(scores.states)
        if not bare:
            tasks = predictor.routed_tasks(scores, chunk_targets) if task is None else [task] * len(chunk_targets)
            predictions += predictor.to_predictions(scores, tasks)
            heads.append(np.concatenate([log_softmax(logits, axis=1) for logits in scores.logits.values()], axis=1))
    pooled = np.concatenate(states)  # (N, D)
    if bare:
        return TextFeatures(pooled, pooled)
    inputs = np.concatenate([pooled, np.concatenate(heads)], axis=1)  # (N, F)
    return TextFeatures(inputs, pooled, _padded(predictions), [prediction.label for prediction in predictions])


def expert_probabilities(
    predictor: TorchPredictor,
    texts: Sequence[str],
    targets: Sequence[str | None],
    *,
    task: str | None = None,
    quiet: bool = True,
) -> np.ndarray:
    """Return the probabilities of each routed expert on its own (E, N, K), see `TextFeatures.probabilities`.

    Raises:
        Fault: if the model has fewer than two experts.
    """
    if predictor.mode.active_expert is not None or len(predictor.experts) < 2:
        raise Fault("a mixture of at least two experts for --by disagreement", "one expert", "use another --by")
    parts = []
    with progress_bar("single experts", len(texts), "text", quiet) as meter:
        for chunk, chunk_targets in _chunks(predictor, texts, targets):
            default = predictor.spec.default_task
            tasks = [
                task or default(None, bool(target)) or next(iter(predictor.spec.tasks)) for target in chunk_targets
            ]
            by_expert = predict_per_expert(predictor, chunk, tasks, chunk_targets if any(chunk_targets) else None)
            parts.append(np.stack([_padded(predictions) for predictions in by_expert.values()]))  # (E, B, K)
            meter.advance(len(chunk))
    width = max(part.shape[2] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, 0), (0, width - part.shape[2]))) for part in parts], axis=1)


def _scores(
    predictor: TorchPredictor, texts: Sequence[str], targets: Sequence[str | None], quiet: bool
) -> Iterator[tuple[Scores, Sequence[str | None]]]:
    with progress_bar("features", len(texts), "text", quiet) as meter:
        for chunk, chunk_targets in _chunks(predictor, texts, targets):
            yield predictor.score(chunk, targets=chunk_targets if any(chunk_targets) else None), chunk_targets
            meter.advance(len(chunk))


def _chunks(
    predictor: TorchPredictor, texts: Sequence[str], targets: Sequence[str | None]
) -> Iterator[tuple[Sequence[str], Sequence[str | None]]]:
    for start in range(0, len(texts), predictor.chunk_size):
        chunk = slice(start, start + predictor.chunk_size)
        yield texts[chunk], targets[chunk]


def _padded(predictions: Sequence[Prediction]) -> np.ndarray:
    """Probabilities of predictions (N, K), 0 beyond the labels of each task."""
    width = max(len(prediction.labels) for prediction in predictions)
    return np.stack(
        [np.pad(prediction.probabilities, (0, width - len(prediction.labels))) for prediction in predictions]
    )
