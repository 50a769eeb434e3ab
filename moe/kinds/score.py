"""Tasks with a score per row and no labels: the polarity head answers them, and its squared error is their loss.

As for their labels, such tasks have none (K = 0): no answer has a code, no label is predicted, and arrays of
probabilities are empty.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experts.domain import SCORE, Kind
from moe.kinds.base import TaskKind
from moe.results.metrics import LabelMetrics

if TYPE_CHECKING:
    from torch import Tensor

STRATA = 10
"""Number of groups of equal size, by score, of which a random split takes equal shares."""


class Score(TaskKind):
    """A score per row, −1 to 1; the code of every row is −1."""

    name: ClassVar[Kind] = SCORE
    has_class_weights: ClassVar[bool] = False
    has_labels: ClassVar[bool] = False
    answer_fields: ClassVar[tuple[str, ...]] = ("score",)

    def check_labels(self, labels: Sequence[str]) -> str | None:
        """No labels."""
        return "a task of the kind score has no labels: remove them, or choose another kind" if labels else None

    def check_answer(self, label: int | None, score: float | None) -> str | None:
        """A row needs a score."""
        return "no score" if score is None else None

    def cell_values(self, value: object) -> Sequence[object]:
        """None: the label column is not read."""
        return ()

    def encode(self, indices: Iterable[int]) -> int:
        """−1."""
        return -1

    def decode(self, code: int) -> tuple[int, ...]:
        """No labels."""
        return ()

    def join(self, names: Sequence[str]) -> str:
        """An empty string."""
        return ""

    def split(self, answer: str) -> tuple[str, ...]:
        """No names."""
        return ()

    def strata(self, codes: np.ndarray, classes: int, scores: np.ndarray) -> np.ndarray:
        """One of `STRATA` groups by score; equal scores are in one group, and small files have fewer groups."""
        edges = np.quantile(scores, np.linspace(0, 1, STRATA + 1)[1:-1]) if len(scores) else np.zeros(0)
        strata: np.ndarray = np.searchsorted(np.unique(edges), scores, side="right")  # (N,)
        return strata

    def members(self, codes: np.ndarray, classes: int) -> np.ndarray:
        """No labels."""
        return np.zeros((len(codes), classes), dtype=bool)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """None (…, 0)."""
        return logits

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """None (…, 0)."""
        return probabilities

    def probabilities_of_tensor(self, logits: "Tensor") -> "Tensor":
        """None (B, 0)."""
        return logits

    def log_losses(self, logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """0, since nothing is decided."""
        return np.zeros(len(logits))

    def chosen(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """None (…, 0)."""
        return np.zeros(probabilities.shape, dtype=bool)

    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """1, since nothing is decided; predictions report none."""
        return np.ones(probabilities.shape[:-1])

    def log_odds(self, logits: "Tensor", columns: "Tensor") -> "Tensor":
        """Never called: there is no label that could be explained.

        Raises:
            ValueError: always.
        """
        raise ValueError("a task of the kind score has no labels")

    def metrics(
        self,
        true: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: np.ndarray | None = None,
    ) -> LabelMetrics:
        """Never called: no row has a label; `moe.evaluation.metrics.regression` has the metrics of scores.

        Raises:
            ValueError: always.
        """
        raise ValueError("a task of the kind score has no labels")
