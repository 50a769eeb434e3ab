"""Losses for imbalanced classes: DAO's (DAO paper eq. 12 to 14), effective-number weights, focal loss, smoothing."""

import torch
from torch import Tensor


def imbalance_loss(
    per_row: Tensor, labels: Tensor, alpha: Tensor | float, beta: Tensor | float, classes: int
) -> Tensor:
    """Return DAO's imbalance loss (eq. 12 to 14) of a batch, over the classes present in it.

    `Σ_k p_k^(−β) (p_k L_k − α log p_k) / Σ_k p_k^(1−β)`; the divisor makes its scale independent of the number of
    classes.

    Args:
        per_row: loss of each row (B,).
        labels: class of each row (B,), 0 … K − 1.
        alpha: α; its term has no gradient for the model.
        beta: β.
        classes: number of classes (K).
    """
    frequency, mean = class_statistics(per_row, labels, classes)
    return unnormalized_imbalance_loss(frequency, mean, alpha, beta) / frequency.pow(1.0 - beta).sum()


def class_statistics(per_row: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the relative frequency p_k (eq. 13) and the mean loss L_k of each class in the batch, (K',) each."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    per_row = per_row.float()  # (B,)
    sums = per_row.new_zeros(classes).index_add(0, labels, per_row)  # (K,)
    present = counts > 0
    return counts[present].to(sums.dtype) / len(labels), sums[present] / counts[present]


def unnormalized_imbalance_loss(frequency: Tensor, mean: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Return `Σ_k v_k (p_k L_k − α log p_k)` with `v_k = p_k^(−β)` (eq. 12, 14), without the divisor."""
    return (frequency.pow(-beta) * (frequency * mean - alpha * frequency.log())).sum()


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Return class weights (K,) by effective number of samples, `(1 − β) / (1 − β^n_k)` (Cui et al. 2019).

    They are scaled to mean 1 over the classes that have rows.

    Args:
        counts: training rows of each class (K,); a class without rows gets weight 0.
        beta: β; 0 gives all classes the same weight, values towards 1 approach 1 / n_k. At β = 0.99 classes with more
            than a few hundred rows have practically equal weights.
    """
    effective = torch.where(counts > 0, (1.0 - beta ** counts.double()) / (1.0 - beta), 0.0)  # (K,)
    weights = torch.where(counts > 0, 1.0 / effective, 0.0)  # (K,)
    return (weights / weights.sum().clamp(min=1e-12) * (counts > 0).sum()).float()  # (K,)


def row_losses(logits: Tensor, labels: Tensor, mask: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each row (B,), with label smoothing and the focal factor `(1 − p_true)^γ`.

    The focal factor uses the probability of the true label, also with smoothing (Lin et al. 2017).

    Args:
        logits: (B, K), with the lowest float for labels that a row's task does not use.
        labels: true labels (B,).
        mask: (B, K) bool, the labels of each row's task.
        focal: γ; 0 disables the focal factor.
        smoothing: probability mass spread evenly over the task's labels.
    """
    log_probs = logits.log_softmax(-1)  # (B, K)
    true = log_probs.gather(1, labels[:, None])[:, 0]  # (B,)
    losses = -true  # (B,)
    if smoothing:
        uniform = log_probs.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)  # (B,)
        losses = (1.0 - smoothing) * losses - smoothing * uniform  # (B,)
    # The minimum keeps the gradient finite where γ < 1: a root has none at 0.
    return losses * (-torch.expm1(true)).clamp(min=1e-6) ** focal if focal else losses  # (B,)
