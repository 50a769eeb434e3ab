"""Tasks with one label per row: cross-entropy, softmax, and metrics of classification."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from experts.domain import Kind
from moe.kinds.base import TaskKind
from moe.results.metrics import ClassMetrics, Confusion, LabelMetrics

if TYPE_CHECKING:
    from torch import Tensor

OTHER_LABEL = "(other)"


class Classes(TaskKind):
    """One label per row; the code of an answer is the index of its label."""

    name: ClassVar[Kind] = "classes"

    def cell_values(self, value: object) -> Sequence[object]:
        """The cell itself."""
        return (value,)

    def encode(self, indices: Iterable[int]) -> int:
        """The index of the only label."""
        (index,) = indices
        return index

    def decode(self, code: int) -> tuple[int, ...]:
        """The index of the label, if there is one."""
        return (code,) if code >= 0 else ()

    def join(self, names: Sequence[str]) -> str:
        """The name of the only label."""
        (name,) = names
        return name

    def split(self, answer: str) -> tuple[str, ...]:
        """The name itself."""
        return (answer,)

    def strata(self, codes: np.ndarray, classes: int, scores: np.ndarray) -> np.ndarray:
        """The label of each row."""
        return codes

    def members(self, codes: np.ndarray, classes: int) -> np.ndarray:
        """The label of each row alone."""
        members: np.ndarray = codes[:, None] == np.arange(classes)
        return members

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """The softmax of the logits."""
        weights: np.ndarray = np.exp(logits - logits.max(-1, keepdims=True))  # (…, K)
        weights /= weights.sum(-1, keepdims=True)
        return weights

    def logits(self, probabilities: np.ndarray) -> np.ndarray:
        """The logarithms."""
        logits: np.ndarray = np.log(probabilities.clip(np.finfo(float).tiny))
        return logits

    def probabilities_of_tensor(self, logits: "Tensor") -> "Tensor":
        """The softmax of the logits."""
        return logits.softmax(-1)  # (B, K)

    def log_losses(self, logits: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """The negative log-softmax at the label of each row."""
        from scipy.special import log_softmax  # slow to import

        losses: np.ndarray = -log_softmax(logits, axis=1)[np.arange(len(codes)), codes]  # (N,)
        return losses

    def chosen(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """The most probable label, the first one of equals."""
        chosen: np.ndarray = probabilities.argmax(-1)[..., None] == np.arange(probabilities.shape[-1])
        return chosen

    def confidence(self, probabilities: np.ndarray, thresholds: np.ndarray | None) -> np.ndarray:
        """The largest probability."""
        confidence: np.ndarray = probabilities.max(-1)
        return confidence

    def log_odds(self, logits: "Tensor", columns: "Tensor") -> "Tensor":
        """The log-odds of a label against all others."""
        import torch  # slow to import, and not needed for predictions of a graph

        selected = torch.zeros_like(logits, dtype=torch.bool).scatter(1, columns[:, None], True)  # (N, K)
        others = logits.masked_fill(selected, float("-inf")).logsumexp(1)  # (N,)
        return logits.gather(1, columns[:, None])[:, 0] - others  # (N,)

    def metrics(
        self,
        true: Sequence[str],
        predicted: Sequence[str],
        labels: Sequence[str],
        probabilities: np.ndarray | None = None,
    ) -> LabelMetrics:
        """Metrics of classification, with the confusion matrix."""
        from sklearn.metrics import accuracy_score, confusion_matrix, precision_recall_fscore_support  # slow to import

        names = list(labels)
        per_class = precision_recall_fscore_support(true, predicted, labels=names, zero_division=0)
        known = [name if name in names else OTHER_LABEL for name in predicted]
        matrix = confusion_matrix(true, known, labels=[*names, OTHER_LABEL])[: len(names)]
        return LabelMetrics(
            rows=len(true),
            accuracy=float(accuracy_score(true, predicted)),
            **average_metrics(per_class),
            per_class=metrics_by_label(names, per_class),
            confusion=Confusion(labels=names, rows=matrix.tolist()),
        )


def average_metrics(per_class: Sequence[np.ndarray]) -> dict[str, float]:
    """Means over labels of precision, recall and F1, and means weighted by support; from (K,) each and the support."""
    means = {"macro": None, "weighted": per_class[3] if per_class[3].sum() else None}
    return {
        f"{kind}_{name}": float(np.average(values, weights=weights))
        for kind, weights in means.items()
        for name, values in zip(("precision", "recall", "f1"), per_class[:3], strict=True)
    }


def metrics_by_label(labels: Sequence[str], per_class: Sequence[np.ndarray]) -> dict[str, ClassMetrics]:
    """Metrics of each label, from precision, recall, F1 and support, (K,) each."""
    return {
        name: ClassMetrics(precision=precision, recall=recall, f1=f1, support=support)
        for name, precision, recall, f1, support in zip(labels, *per_class, strict=True)
    }
