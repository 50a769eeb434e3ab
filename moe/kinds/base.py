"""The interface of a kind of task. Nothing here imports torch or scikit-learn, so that prediction starts quickly."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experts.domain import Kind
from moe.results.metrics import LabelMetrics

if TYPE_CHECKING:
    from torch import Tensor


class TaskKind(ABC):
    """A kind of task.

    A row's answer is an integer code, −1 for a row without one; `encode` and `decode` convert it to the indices of its
    labels. As text, an answer is a string (`join`), which a file of labels can hold.
    """

    name: ClassVar[Kind]
    blank_is_answer: ClassVar[bool] = False
    """Whether an empty cell is an answer, the empty set of labels, instead of a missing one."""
    has_class_weights: ClassVar[bool] = True
    """Whether `losses.classes`, `losses.focal` and `losses.smoothing` apply to its rows."""
    is_set: ClassVar[bool] = False
    """Whether an answer is a set of labels."""
    has_labels: ClassVar[bool] = True
    """Whether rows have labels, for which the task has a class head; else they have a score alone."""

    answer_fields: ClassVar[tuple[str, ...]] = ("label", "score")
    """Fields of `columns` of which the file needs one at least."""

    def check_labels(self, labels: Sequence[str]) -> str | None:
        """Return what is wrong with the labels of a task of this kind; None if nothing is."""
        return None

    def check_answer(self, label: int | None, score: float | None) -> str | None:
        """Return why a row without a usable answer is rejected; None if it has one.

        Args:
            label: code of its labels, None without any.
            score: its score, None without one.
        """
        return "no label and no score" if label is None and score is None else None

    @abstractmethod
    def cell_values(self, value: object) -> Sequence[object]:
        """Return the values of the labels in a cell of the label column."""

    @abstractmethod
    def encode(self, indices: Iterable[int]) -> int:
        """Return the code of an answer from the indices of its labels."""

    @abstractmethod
    def decode(self, code: int) -> tuple[int, ...]:
        """Return the indices of the labels of an answer, ascending; none for −1."""

    @abstractmethod
    def join(self, names: Sequence[str]) -> str:
        """Return an answer as a string, from the names of its labels in the order of the task."""

    @abstractmethod
    def split(self, answer: str) -> tuple[str, ...]:
        """Return the names of the labels of an answer that `join` returned."""

    def answer(self, code: int, labels: Sequence[str]) -> str | None:
        """Return an answer as a string; None for −1."""
        return None if code < 0 else self.join([labels[i] for i in self.decode(code)])

    @abstractmethod
    def strata(self, codes: np.ndarray, classes: int, scores: np.ndarray) -> np.ndarray:
        """Return by what rows are stratified (N,): the index of a label of each row, K if it has none, −1 for code −1.

        Args:
            codes: answers (N,).
            classes: number of labels of the task (K).
            scores: of the rows (N,), NaN without one; what rows without labels are stratified by.
        """

    @abstractmethod
    def members(self, codes: np.ndarray, classes: int) -> np.ndarray:
        """Return which labels each answer (N,) has (N, K) bool; none for code −1.

        Args:
            codes: answers (N,).
            classes: number of labels of the task (K).
        """

    def label_counts(self, codes: np.ndarray, classes: int) -> np.ndarray:
        """Return the number of rows of each label (K,), from the codes of rows (N,); code −1 counts for none."""
        counts: np.ndarray = self.members(codes, classes).sum(0)  # (K,)
        return counts

    @abstractmethod
    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Return the probabilities (…, K) of logits (…, K)."""

    @abstractmethod
    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """Return finite logits (…, K) with these probabilities (…, K)."""

    @abstractmethod
    def probabilities_of_tensor(self, logits: "Tensor") -> "Tensor":
        """Return the probabilities (B, K) of logits (B, K), as operations of an exported graph."""

    @abstractmethod
    def log_losses(self, logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """Return the negative log-likelihood of each answer (N,), in nats, from logits (N, K)."""

    @abstractmethod
    def chosen(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """Return which labels are predicted (…, K) bool, from probabilities (…, K).

        Args:
            thresholds: probability from which each label is predicted (K,); None for the default of the kind.
        """

    @abstractmethod
    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """Return the probability (…,) that the predicted labels are the right ones; arguments as for `chosen`."""

    @abstractmethod
    def log_odds(self, logits: "Tensor", columns: "Tensor") -> "Tensor":
        """Return the log-odds (N,) of one label (N,) of each row, from logits (N, K)."""

    @abstractmethod
    def metrics(
        self,
        true: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: np.ndarray | None = None,
    ) -> LabelMetrics:
        """Return metrics of answers, without intervals.

        Args:
            true: answers (N,), N ≥ 1.
            predicted: answers (N,); a label outside `labels` is an error.
            labels: the task's labels, in order.
            probabilities: of the labels (N, K), for metrics of their order; without them such metrics are not set.
        """
