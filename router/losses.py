"""The router's own losses: domain supervision and routing balance, of soft gates q (B, E).

How they are weighed against the rest is `router.dao`'s.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MIN_USAGE = 1e-6


def domain_loss(dense: Tensor, allowed: Tensor) -> Tensor:
    """−mean_b log Σ_{e ∈ S(d_b)} q[b, e] (method 3).

    Args:
        dense: soft gates q (B, E).
        allowed: (B, E) bool, the experts of each text's domain; a text with none is skipped.

    Returns:
        a scalar; 0 where no text has a known domain.
    """
    known = allowed.any(-1)  # (B,)
    if not known.any():
        return dense.sum() * 0.0
    inside = (dense * allowed).sum(-1)[known]  # (B',)
    return -inside.clamp(min=torch.finfo(inside.dtype).tiny).log().mean()


def target_shares(dense: Tensor, allowed: Tensor) -> Tensor:
    """π (E,): the mean of uniform shares on each text's own experts, on all where its domain is unknown."""
    mine = torch.where(allowed.any(-1, keepdim=True), allowed, torch.ones_like(allowed)).to(dense.dtype)  # (B, E)
    return (mine / mine.sum(-1, keepdim=True)).mean(0)  # (E,)


def balance_loss(dense: Tensor, allowed: Tensor) -> Tensor:
    """KL(π ‖ max(mean_b q, 1e-6)) / log E, 0 if E = 1: FinTeamExperts' entropy regulariser (eq. 5) made safe.

    The floor lets the gradient of a share below it through, so that a dying expert can come back.

    Args:
        dense: soft gates q (B, E).
        allowed: (B, E) bool, the experts of each text's domain.
    """
    experts = dense.shape[-1]
    if _idle(dense):
        return dense.sum() * 0.0
    target, used = target_shares(dense, allowed), dense.mean(0)  # (E,) each
    used = used + (MIN_USAGE - used.detach()).clamp(min=0.0)  # (E,)
    return (torch.xlogy(target, target) - target * used.log()).sum() / math.log(experts)


def usage_entropy_loss(dense: Tensor, allowed: Tensor) -> Tensor:
    """1 − H(mean_b q) / log E: experts used alike over the batch; its gradient fades for a dying expert."""
    experts = dense.shape[-1]
    return dense.sum() * 0.0 if _idle(dense) else 1.0 - _entropy(dense.mean(0)) / math.log(experts)


def text_entropy_loss(dense: Tensor, allowed: Tensor) -> Tensor:
    """mean_b H(q_b) / log E, the paper's entropy a text (FinTeamExperts eq. 5): low when each text is decided."""
    experts = dense.shape[-1]
    return dense.sum() * 0.0 if _idle(dense) else _entropy(dense).mean() / math.log(experts)


def _idle(dense: Tensor) -> bool:
    """Nothing to balance: one expert only, or no text."""
    return dense.shape[-1] == 1 or not len(dense)


def _entropy(shares: Tensor) -> Tensor:
    return -(shares * shares.clamp(min=1e-12).log()).sum(-1)


BALANCE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": balance_loss,
    "usage": usage_entropy_loss,
    "text": text_entropy_loss,
}
