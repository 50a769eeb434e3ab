"""Predictions of a loaded model: labels, probabilities, routing weights, hidden states and complete answers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from moe.api.inputs import check_texts, match_targets
from moe.inference.predictor import Prediction, Predictor
from moe.inference.rows import Row
from moe.inference.stream import predict_texts, to_row
from moe.model.mode import Routing

if TYPE_CHECKING:
    from moe.inference.torch_predictor import TorchPredictor


class TextPredictions(ABC):
    """What a loaded model predicts about texts.

    Args:
        predictor: the loaded model.
        folder: the folder that it was loaded from.

    Attributes:
        classes_: all labels of all tasks, (K,), in the order of the columns of `predict_proba`.
    """

    def __init__(self, predictor: Predictor, folder: Path) -> None:
        self.predictor, self.folder = predictor, folder
        self.classes_ = np.array(predictor.spec.labels)  # (K,)

    def with_batch_tokens(self, batch_tokens: int) -> Self:
        """Return a model that shares this one's weights and has batches of at most so many tokens."""
        other = copy(self)
        other.predictor = copy(self.predictor)
        other.predictor.batch_tokens = batch_tokens
        return other

    @property
    def routing(self) -> Routing:
        """`soft`, `pruned` or `hard`."""
        return self.predictor.routing

    @property
    def experts(self) -> tuple[str, ...]:
        """Names of the routed experts (E), in the order of the routing weights."""
        return self.predictor.experts

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains, for the argument `domain`."""
        return tuple(domain.name for domain in self.predictor.spec.trained_domains)

    @property
    def tasks(self) -> dict[str, tuple[str, ...]]:
        """Labels of each task."""
        return {name: task.labels for name, task in self.predictor.spec.tasks.items()}

    def predict(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> list[str | None]:
        """Predict the label of each text.

        Args:
            texts: B texts: a list, an array, a table column or any other iterable.
            domain: restrict all texts to the experts of this domain; by default the router decides.
            task: the task to predict; by default that of `domain`, or of the text's most probable domain.
            targets: for each text the entity that the prediction is about, or None (or NaN) for the text itself; the
                model needs a task with a target. To predict a text for several entities, repeat it.

        Returns:
            B labels, in the order of the texts; None where the model abstains, and for a task with a score alone, whose
            score is the `polarity` of `answers`.

        Raises:
            Fault: if a text is missing, empty or not a string, the model does not know the domain or task, or the
                targets do not fit the texts or the model.
        """
        predictions = self._predict(check_texts(texts), domain, task, targets)
        return [
            None if prediction.abstained or not prediction.has_labels else prediction.label
            for prediction in predictions
        ]

    def predict_proba(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> np.ndarray:
        """Predict the probability of each label for each text.

        Args:
            texts: B texts, as for `predict`.
            domain: as for `predict`.
            task: as for `predict`.
            targets: as for `predict`.

        Returns:
            probabilities (B, K) in the order of `classes_`; rows sum to 1, and labels of other tasks have 0. All are 0
            for a task with a score alone.

        Raises:
            Fault: as `predict`.
        """
        return stack_probabilities(self._predict(check_texts(texts), domain, task, targets), self.predictor.spec.labels)

    def get_routing_weights(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> np.ndarray:
        """Return the soft routing weights of each text.

        Args:
            texts: B texts, as for `predict`.
            domain: as for `predict`.
            task: as for `predict`.
            targets: as for `predict`.

        Returns:
            routing weights (B, E) in the order of `experts`; rows sum to 1.

        Raises:
            Fault: as `predict`.
        """
        predictions = self._predict(check_texts(texts), domain, task, targets)
        rows = [prediction.routing_weights for prediction in predictions]
        return np.stack(rows) if rows else np.zeros((0, len(self.experts)))  # (B, E)

    def encode(self, texts: Iterable[str]) -> np.ndarray:
        """Return the pooled hidden state of each text, from which the heads predict.

        Args:
            texts: B texts, as for `predict`.

        Returns:
            states (B, D), in float32.

        Raises:
            Fault: as `predict`.
        """
        checked, predictor = check_texts(texts), self.torch_predictor
        size = predictor.chunk_size
        chunks = [predictor.score(checked[start : start + size]).states for start in range(0, len(checked), size)]
        states = [chunk for chunk in chunks if chunk is not None]
        width = predictor.model.backbone.config.hidden_size
        return np.concatenate(states) if states else np.zeros((0, width), np.float32)  # (B, D)

    @property
    @abstractmethod
    def torch_predictor(self) -> "TorchPredictor":
        """The model in PyTorch, which also returns hidden states; loaded once if a graph predicts."""

    def answers(
        self,
        texts: Iterable[str],
        *,
        domain: str | None = None,
        task: str | None = None,
        targets: Iterable[str | None] | None = None,
    ) -> list[Row]:
        """Predict each text and return everything that `moe infer` prints about it.

        Args:
            texts: B texts, as for `predict`.
            domain: as for `predict`.
            task: as for `predict`.
            targets: as for `predict`.

        Returns:
            B dictionaries with `text`, `label`, `probabilities` (by label), `polarity` (-1 to 1, or None), `confidence`
            (probability of the most probable label; None for a task with a score alone), `experts` (routing weight by
            expert), `routing_entropy` (0 to 1), `truncated` (whether the text was longer than the model reads) and
            `task`; and `abstained` if the model was loaded with `abstain`, and `label_set` if with `label_sets`. A
            prediction for a target has `target`, and `target_missing` if the text does not contain it. A text far from
            the training texts of every domain has `unfamiliar`, if the router started from prototypes. Numbers are
            rounded to 6 digits.

        Raises:
            Fault: as `predict`.
        """
        checked = check_texts(texts)
        predictions = self._predict(checked, domain, task, targets)
        return [
            {"text": text} | to_row(prediction, self.experts)
            for text, prediction in zip(checked, predictions, strict=True)
        ]

    def _predict(
        self, texts: Sequence[str], domain: str | None, task: str | None, targets: Iterable[str | None] | None
    ) -> list[Prediction]:
        """Predictions in the order of the texts, chunk by chunk, so that memory stays bounded."""
        names = [None] * len(texts) if targets is None else match_targets(targets, len(texts))
        for has_target in sorted({name is not None for name in names} or {False}):
            self.predictor.check(task, domain, has_target)
        size, predictions = self.predictor.chunk_size, list[Prediction]()
        for start in range(0, len(texts), size):
            chunk = slice(start, start + size)
            predictions += predict_texts(texts[chunk], self.predictor, domain, task, names[chunk])
        return predictions

    def __repr__(self) -> str:
        """The model's folder and its experts."""
        return f"{type(self).__name__}({str(self.folder)!r}, experts={list(self.experts)})"


def stack_probabilities(predictions: Sequence[Prediction], labels: Sequence[str]) -> np.ndarray:
    """Stack the probabilities of B predictions, whose tasks may differ.

    Args:
        predictions: B predictions.
        labels: K labels of all tasks, the order of the columns.

    Returns:
        probabilities (B, K); labels of other tasks have 0.
    """
    columns = {label: k for k, label in enumerate(labels)}
    probabilities = np.zeros((len(predictions), len(columns)))  # (B, K)
    for row, prediction in zip(probabilities, predictions, strict=True):
        row[[columns[label] for label in prediction.labels]] = prediction.probabilities
    return probabilities
