"""Long texts in windows: which windows are read, and the scores of a text from those of its windows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scores:
    """Model outputs for texts, before a task is selected.

    Args:
        logits: (B, K) by head.
        polarity: (B,), -1 to 1; None for a model without a polarity head.
        routing_weights: (B, E), soft routing weights.
        truncated: (B,), whether a part of the text was not read.
        states: (B, D), pooled hidden states, if requested.
        target_truncated: (B,), whether the target was cut (`moe.data.text_checks.target_limit`); None without targets.
        windows: (B,), number of windows in which each text was read; None for one each.
        unfamiliar: (B,), whether the text, or more than half of its windows, is far from the training texts of every
            domain; None for a router without prototypes.
        tokens: (B,), number of tokens that were read, special tokens and all windows included; None if not counted.
    """

    logits: dict[str, np.ndarray]
    polarity: np.ndarray | None
    routing_weights: np.ndarray
    truncated: np.ndarray
    states: np.ndarray | None = None
    target_truncated: np.ndarray | None = None
    windows: np.ndarray | None = None
    unfamiliar: np.ndarray | None = None
    tokens: np.ndarray | None = None


@dataclass(frozen=True)
class RoutingCount:
    """How many experts were computed.

    Args:
        routing: `soft`, `pruned` or `hard`.
        experts: of all windows together; soft routing, which computes all, counts none.
        skipped: those of them that were not computed.
    """

    routing: str
    experts: int = 0
    skipped: int = 0

    @property
    def skipped_share(self) -> float:
        """Mean share of a window's experts that were not computed, 0 to 1."""
        return self.skipped / max(1, self.experts)

    def __add__(self, other: "RoutingCount") -> "RoutingCount":
        return RoutingCount(self.routing, self.experts + other.experts, self.skipped + other.skipped)

    def __sub__(self, other: "RoutingCount") -> "RoutingCount":
        return RoutingCount(self.routing, self.experts - other.experts, self.skipped - other.skipped)


def first_windows(text_index: np.ndarray, limit: int | None) -> np.ndarray:
    """Return the indices of the windows that are read: at most `limit` of each text, None for all.

    Args:
        text_index: the text of each window (W,), in ascending order.
    """
    starts = np.searchsorted(text_index, text_index)  # (W,), the first window of the same text
    indices = np.arange(len(text_index))  # (W,)
    return indices if limit is None else indices[indices - starts < limit]


def scores_of_windows(
    windows: dict[str, np.ndarray],
    text_index: np.ndarray,
    counts: np.ndarray,
    weights: np.ndarray,
    lengths: Sequence[int] | None = None,
) -> Scores:
    """Turn outputs of windows (W) into scores of texts (B): means over the windows of a text.

    Args:
        windows: logits as `head/NAME` (W, K) and `routing_weights` (W, E); `polarity` (W,), `states` (W, D) and
            `unfamiliar` (W,), 0 or 1, if there are any.
        text_index: the text of each window that was read (W,), in ascending order.
        counts: number of all windows of each text (B,).
        weights: of the windows in the mean (W,).
        lengths: tokens of the windows (W,), to count those of each text.
    """
    read = np.bincount(text_index, minlength=len(counts))  # (B,)

    def by_text(rows: np.ndarray) -> np.ndarray:
        if read.max(initial=1) == 1:
            return rows
        factors = weights.reshape(-1, *[1] * (rows.ndim - 1))  # (W, 1)
        total = np.zeros((len(counts), *rows.shape[1:]), dtype=np.float64)
        np.add.at(total, text_index, rows * factors)
        sums = np.bincount(text_index, weights, minlength=len(counts))  # (B,)
        mean: np.ndarray = total / sums.reshape(-1, *[1] * (rows.ndim - 1))
        return mean

    texts = {name: by_text(rows) for name, rows in windows.items()}
    return Scores(
        logits={name.removeprefix("head/"): rows for name, rows in texts.items() if name.startswith("head/")},
        polarity=texts["polarity"].clip(-1.0, 1.0) if "polarity" in texts else None,
        routing_weights=texts["routing_weights"],
        truncated=counts > read,
        states=texts.get("states"),
        windows=read,
        unfamiliar=texts["unfamiliar"] > 0.5 if "unfamiliar" in texts else None,
        tokens=None if lengths is None else np.bincount(text_index, lengths, minlength=len(counts)).astype(int),
    )
