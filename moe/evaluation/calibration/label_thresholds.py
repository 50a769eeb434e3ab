"""Thresholds of the labels of a multi-label task: they maximize F1 on validation rows if held-out rows support it."""

import numpy as np

from moe.kinds.multi_label import DEFAULT_THRESHOLD

MIN_POSITIVE_ROWS = 10
"""Fewest validation rows of a label that a threshold is fitted on; with fewer it stays at the default."""
FOLDS = 10
"""Number of folds of the cross-validation."""


def choose_thresholds(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the probability from which each label is predicted (K,).

    Each label has its own threshold (SCut; Yang, 2001), which maximizes its F1 on these rows. It is used only if F1 on
    held-out folds, each decided by the threshold of the other folds' rows, exceeds that of 0.5: thresholds of rare
    labels overfit (Fan and Lin, 2007). Otherwise, and for a label with fewer than `MIN_POSITIVE_ROWS` rows, it is 0.5.

    Args:
        probabilities: of labels on validation rows (N, K).
        truth: which labels each row has (N, K) bool.
    """
    folds = np.random.default_rng(0).permutation(len(truth)) % FOLDS  # (N,)
    return np.array([_choose(p, y, folds) for p, y in zip(probabilities.T, truth.T, strict=True)])


def _choose(probabilities: np.ndarray, truth: np.ndarray, folds: np.ndarray) -> float:
    """The threshold of one label, from probabilities, truth and folds of rows (N,)."""
    if truth.sum() < MIN_POSITIVE_ROWS:
        return DEFAULT_THRESHOLD
    held_out = np.zeros(len(truth), dtype=bool)  # (N,), predicted by the threshold of the other folds
    for fold in range(FOLDS):
        own = folds == fold
        held_out[own] = probabilities[own] >= best_threshold(probabilities[~own], truth[~own])
    if _f1(truth, held_out) <= _f1(truth, probabilities >= DEFAULT_THRESHOLD):
        return DEFAULT_THRESHOLD
    return best_threshold(probabilities, truth)


def best_threshold(probabilities: np.ndarray, truth: np.ndarray) -> float:
    """Return the threshold of one label with the largest F1; the largest threshold of equals, 0.5 without true rows.

    Args:
        probabilities: of the label (N,).
        truth: whether each row has it (N,) bool.
    """
    if not truth.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    descending, hits = probabilities[order], np.cumsum(truth[order])  # (N,) each
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])  # (N,), if the first rows are predicted
    ends = np.append(descending[:-1] > descending[1:], True)  # rows of equal probability cannot be separated
    best = int(np.where(ends, f1, -1.0).argmax())
    below = descending[best + 1] if best + 1 < len(descending) else 0.0
    return float((descending[best] + below) / 2)


def _f1(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(2 * (truth & predicted).sum() / max(1, truth.sum() + predicted.sum()))
