"""DAO's answer to imbalanced classes: the loss of one batch by its classes' shares (DAO paper eq. 12 to 14).

Who chooses or learns α and β is `router.dao`'s.
"""

import torch
from torch import Tensor


def imbalance_loss(
    per_row: Tensor, labels: Tensor, alpha: Tensor | float, beta: Tensor | float, classes: int
) -> Tensor:
    """DAO's imbalance loss (eq. 12 to 14) of one batch, over the classes present in it.

    `Σ_k p_k^(−β) (p_k L_k − α log p_k) / Σ_k p_k^(1−β)`; the divisor keeps the number of classes out of its scale.

    Args:
        per_row: loss of each row (B,).
        labels: class of each row (B,), 0 … K − 1.
        alpha: α; it moves no gradient of the model.
        beta: β.
        classes: K.
    """
    share, mean = class_shares(per_row, labels, classes)
    return imbalance_sum(share, mean, alpha, beta) / share.pow(1.0 - beta).sum()


def class_shares(per_row: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Share p_k of the batch (eq. 13) and mean loss L_k of each class present, (K',) each."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    per_row = per_row.float()  # (B,)
    sums = per_row.new_zeros(classes).index_add(0, labels, per_row)  # (K,)
    here = counts > 0
    return counts[here].to(sums.dtype) / len(labels), sums[here] / counts[here]


def imbalance_sum(share: Tensor, mean: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """`Σ_k v_k (p_k L_k − α log p_k)` with `v_k = p_k^(−β)` (eq. 12, 14), not divided."""
    return (share.pow(-beta) * (share * mean - alpha * share.log())).sum()
