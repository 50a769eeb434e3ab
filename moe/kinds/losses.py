"""The loss of the rows of each kind of task. Apart from the kinds, since it imports torch."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from experts.domain import Kind
from router.losses import row_losses

RowLosses = Callable[[Tensor, Tensor, Tensor, float, float], Tensor]
"""The loss of each row (B,), from its logits (B, K), the code of its answer (B,), the labels of its task (B, K) bool,
the focal exponent and the label smoothing; the last two are for kinds with class weights."""


def set_losses(logits: Tensor, codes: Tensor, mask: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Return the mean binary cross-entropy of the task's labels of each row (B,).

    That is −log σ(z) of a label of the row, and −log σ(−z) of another one.

    Args:
        logits: (B, K).
        codes: sums of 2^k over the indices k of each row's labels (B,).
        mask: (B, K) bool, the labels of each row's task.
        focal: without effect.
        smoothing: without effect.
    """
    bits = torch.arange(logits.shape[1], device=codes.device)  # (K,)
    targets = (codes[:, None] >> bits & 1).to(logits.dtype)  # (B, K)
    losses = binary_cross_entropy_with_logits(logits.masked_fill(~mask, 0.0), targets, reduction="none")  # (B, K)
    return (losses * mask).sum(1) / mask.sum(1)  # (B,)


ROW_LOSSES: dict[Kind, RowLosses] = {"classes": row_losses, "multi_label": set_losses, "ordinal": row_losses}
"""The loss of rows by kind of task."""
