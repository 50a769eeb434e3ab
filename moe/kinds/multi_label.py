"""Tasks with any number of labels per row: binary cross-entropy, sigmoid, thresholds, and metrics of label sets."""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experts.domain import Kind
from moe.kinds.base import TaskKind
from moe.kinds.classes import average_metrics, metrics_by_label
from moe.results.metrics import LabelMetrics

if TYPE_CHECKING:
    from torch import Tensor

SEPARATOR, _SEPARATORS = ";", re.compile(r"[;|]")
MAX_LABELS = 62
"""Most labels of a task: the code of a set is an integer of 64 bits with a sign."""
_TINY = float(np.finfo(float).tiny)
DEFAULT_THRESHOLD = 0.5
"""Probability from which a label is predicted, if no threshold was fitted."""


def holds_several(name: str, known: Sequence[str]) -> bool:
    """Whether the text of a label cell is a list, or has separators between parts of which one at least is known.

    Args:
        name: the cell as text.
        known: labels of the task, as its file names them.
    """
    if name.startswith("[") and name.endswith("]"):
        return True
    parts = [part.strip() for part in _SEPARATORS.split(name)]
    return len(parts) > 1 and not set(known).isdisjoint(parts)


class MultiLabel(TaskKind):
    """Any number of labels per row; the code of an answer is the sum of 2^k over the indices k of its labels."""

    name: ClassVar[Kind] = "multi_label"
    blank_is_answer: ClassVar[bool] = True
    has_class_weights: ClassVar[bool] = False
    is_set: ClassVar[bool] = True

    def check_labels(self, labels: Sequence[str]) -> str | None:
        """Between 2 and `MAX_LABELS` labels, without separators in their names."""
        if not 2 <= len(labels) <= MAX_LABELS:
            return f"a task of the kind multi_label has 2 to {MAX_LABELS} labels, not {len(labels)}"
        if wrong := [label for label in labels if _SEPARATORS.search(label) or label != label.strip() or not label]:
            return f"a label of a multi_label task contains no ; or | and no space around it, unlike {wrong[0]!r}"
        return None

    def cell_values(self, value: object) -> Sequence[object]:
        """A list holds one label per item; any other cell is text, with `;` or `|` between labels."""
        if isinstance(value, (list, tuple)):
            return list(value)
        if not isinstance(value, str):
            return () if value is None or value != value else (value,)
        return [part.strip() for part in _SEPARATORS.split(value) if part.strip()]

    def encode(self, indices: Iterable[int]) -> int:
        """The sum of 2^k."""
        return sum(1 << index for index in set(indices))

    def decode(self, code: int) -> tuple[int, ...]:
        """The bits that are set."""
        return tuple(index for index in range(max(0, code).bit_length()) if code >> index & 1)

    def join(self, names: Sequence[str]) -> str:
        """The names with `;` between them; empty for no label."""
        return SEPARATOR.join(names)

    def split(self, answer: str) -> tuple[str, ...]:
        """The names between `;`."""
        return tuple(answer.split(SEPARATOR)) if answer else ()

    def strata(self, codes: np.ndarray, classes: int, scores: np.ndarray) -> np.ndarray:
        """The rarest label of each row, which a split has to share first (Sechidis et al., 2011)."""
        members = self.members(codes, classes)  # (N, K)
        counts = np.where(members, members.sum(0), len(codes) + 1)  # (N, K)
        rarest = np.where(members.any(1), counts.argmin(1), classes)  # (N,)
        return np.where(codes < 0, -1, rarest)

    def members(self, codes: np.ndarray, classes: int) -> np.ndarray:
        """The bits that are set."""
        members: np.ndarray = np.maximum(codes, 0)[:, None] >> np.arange(classes) & 1 == 1
        return members

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The sigmoid of each logit."""
        probabilities: np.ndarray = np.exp(-np.logaddexp(0.0, -logits))  # (…, K)
        return probabilities

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """The log-odds."""
        logits: np.ndarray = np.log(probabilities.clip(_TINY)) - np.log((1.0 - probabilities).clip(_TINY))
        return logits

    def probabilities_of_tensor(self, logits: "Tensor") -> "Tensor":
        """The sigmoid of each logit."""
        return logits.sigmoid()  # (B, K)

    def log_losses(self, logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The sum of the binary cross-entropies of all labels."""
        signs = np.where(self.members(codes, logits.shape[1]), -1.0, 1.0)  # (N, K)
        losses: np.ndarray = np.logaddexp(0.0, signs * logits).sum(1)  # (N,)
        return losses

    def chosen(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """All labels whose probability is at least their threshold."""
        chosen: np.ndarray = probabilities >= (DEFAULT_THRESHOLD if thresholds is None else thresholds)
        return chosen

    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """The product of the probabilities of all decisions, as if labels were independent given the text."""
        of_decisions = np.where(self.chosen(probabilities, thresholds), probabilities, 1.0 - probabilities)  # (…, K)
        confidence: np.ndarray = of_decisions.prod(-1)
        return confidence

    def log_odds(self, logits: "Tensor", columns: "Tensor") -> "Tensor":
        """The logit of the label."""
        return logits.gather(1, columns[:, None])[:, 0]  # (N,)

    def metrics(
        self,
        true: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: np.ndarray | None = None,
    ) -> LabelMetrics:
        """Per label and averaged as usual; `accuracy` is the subset accuracy, the share of rows with the exact set."""
        from sklearn.metrics import (  # slow to import
            f1_score,
            label_ranking_average_precision_score,
            precision_recall_fscore_support,
        )

        truth, decided = (self._indicator(answers, labels) for answers in (true, predicted))  # (N, K) each
        per_class = precision_recall_fscore_support(truth, decided, zero_division=0)
        ranking = {}
        if probabilities is not None:
            ranking["lrap"] = float(label_ranking_average_precision_score(truth, probabilities))
        return LabelMetrics(
            rows=len(true),
            accuracy=float(np.mean([a == b for a, b in zip(true, predicted, strict=True)])),
            **average_metrics(per_class),
            per_class=metrics_by_label(list(labels), per_class),
            micro_f1=float(f1_score(truth, decided, average="micro", zero_division=0)),
            **ranking,
        )

    def _indicator(self, answers: Sequence[str], labels: Sequence[str]) -> np.ndarray:
        """Which labels each answer has (N, K), without labels outside the task's."""
        sets = [set(self.split(answer)) for answer in answers]
        return np.array([[label in own for label in labels] for own in sets], dtype=int)
