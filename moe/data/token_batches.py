"""Batches of texts of similar length within a token budget, for every loop without gradients."""

from collections.abc import Sequence

import numpy as np


def batch_by_tokens(lengths: Sequence[int] | np.ndarray, tokens: int) -> list[np.ndarray]:
    """Group rows of similar length into batches that hold at most `tokens` tokens each, padding included.

    A row that is longer than the budget is a batch by itself.

    Args:
        lengths: length of each row in tokens (N,).
        tokens: token budget of a batch.

    Returns:
        Row indices of each batch, in order of length.
    """
    order = np.argsort(lengths, kind="stable")  # (N,)
    cuts, start = [], 0
    for position, row in enumerate(order):
        if position > start and (position - start + 1) * lengths[row] > tokens:
            cuts.append(position)
            start = position
    return np.split(order, cuts)
