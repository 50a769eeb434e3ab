"""The distillation loss of each row: how far a student's class probabilities are from those of a teacher."""

import torch
from torch import Tensor


def distillation_losses(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Return T² · KL(teacher ‖ student) of each row (B,), both at temperature T (Hinton et al., 2015).

    T² keeps the gradient's size independent of T.

    Args:
        logits: of the student (B, K), with the lowest float for labels that a row's task does not use.
        teacher: probabilities (B, K), 0 for those labels; they become p^(1 / T) / Σ p^(1 / T).
        temperature: T.
    """
    log_target = (teacher.clamp(min=1e-12).log() / temperature).masked_fill(teacher <= 0, -torch.inf)  # (B, K)
    target = log_target.softmax(-1)  # (B, K)
    log_student = (logits / temperature).log_softmax(-1)  # (B, K)
    divergence = torch.xlogy(target, target) - torch.where(target > 0, target * log_student, 0.0)  # (B, K)
    return temperature**2 * divergence.sum(-1)  # (B,)
