"""Imbalanced classes: DAO's loss by a batch's shares (DAO paper eq. 12 to 14), effective numbers, focal, smoothing.

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
    share, mean = class_statistics(per_row, labels, classes)
    return unnormalized_imbalance_loss(share, mean, alpha, beta) / share.pow(1.0 - beta).sum()


def class_statistics(per_row: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Share p_k of the batch (eq. 13) and mean loss L_k of each class present, (K',) each."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    per_row = per_row.float()  # (B,)
    sums = per_row.new_zeros(classes).index_add(0, labels, per_row)  # (K,)
    here = counts > 0
    return counts[here].to(sums.dtype) / len(labels), sums[here] / counts[here]


def unnormalized_imbalance_loss(share: Tensor, mean: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """`Σ_k v_k (p_k L_k − α log p_k)` with `v_k = p_k^(−β)` (eq. 12, 14), not divided."""
    return (share.pow(-beta) * (share * mean - alpha * share.log())).sum()


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Class weights (K,) by effective number (Cui et al. 2019): `(1 − β) / (1 − β^n_k)`, of mean 1 over classes met.

    Args:
        counts: training rows of each class (K,); a class without rows gets 0.
        beta: β; 0 weighs classes alike, toward 1 by 1 / n_k. At β = 0.99 counts above a few hundred all weigh the same.
    """
    number = torch.where(counts > 0, (1.0 - beta ** counts.double()) / (1.0 - beta), 0.0)  # (K,)
    weights = torch.where(counts > 0, 1.0 / number, 0.0)  # (K,)
    return (weights / weights.sum().clamp(min=1e-12) * (counts > 0).sum()).float()  # (K,)


def row_losses(logits: Tensor, labels: Tensor, mask: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of each row (B,), smoothed over its own task's labels, times the focal factor `(1 − p_true)^γ`.

    The factor is of the true label's own probability, also under smoothing (Lin et al. 2017).

    Args:
        logits: (B, K), the labels that a task does not use out of reach.
        labels: (B,).
        mask: (B, K) bool, the labels of each row's task.
        focal: γ; 0 leaves the factor out.
        smoothing: share of the target spread over the task's labels.
    """
    logs = logits.log_softmax(-1)  # (B, K)
    true = logs.gather(1, labels[:, None])[:, 0]  # (B,)
    each = -true  # (B,)
    if smoothing:
        spread = logs.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)  # (B,)
        each = (1.0 - smoothing) * each - smoothing * spread  # (B,)
    # From a hair above 0 up: a root of 0 has no gradient.
    return each * (-torch.expm1(true)).clamp(min=1e-6) ** focal if focal else each  # (B,)
