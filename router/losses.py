"""Losses of the router: domain supervision and routing balance, of soft gates q (B, E)."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

MIN_USAGE = 1e-6


def domain_loss(probs: Tensor, allowed: Tensor) -> Tensor:
    """Return −mean_b log Σ_{e ∈ S(d_b)} q[b, e] (method 3).

    Args:
        probs: soft gates q (B, E).
        allowed: (B, E) bool, the experts of each text's domain; a text without any is skipped.

    Returns:
        a scalar; 0 if no text has a known domain.
    """
    known = allowed.any(-1)  # (B,)
    if not known.any():
        return probs.sum() * 0.0
    inside = (probs * allowed).sum(-1)[known]  # (B',)
    return -inside.clamp(min=torch.finfo(inside.dtype).tiny).log().mean()


def target_usage(probs: Tensor, allowed: Tensor) -> Tensor:
    """Return π (E,): the mean over texts of uniform weights on their allowed experts, or on all if none is allowed."""
    experts = torch.where(allowed.any(-1, keepdim=True), allowed, torch.ones_like(allowed)).to(probs.dtype)  # (B, E)
    return (experts / experts.sum(-1, keepdim=True)).mean(0)  # (E,)


def balance_loss(probs: Tensor, allowed: Tensor) -> Tensor:
    """Return KL(π ‖ max(mean_b q, 1e-6)) / log E, or 0 if E = 1.

    This is FinTeamExperts' entropy regularizer (eq. 5) with a lower bound, which lets the gradient of a usage below it
    through, so that the expert can recover.

    Args:
        probs: soft gates q (B, E).
        allowed: (B, E) bool, the experts of each text's domain.
    """
    experts = probs.shape[-1]
    if _nothing_to_balance(probs):
        return probs.sum() * 0.0
    target, usage = target_usage(probs, allowed), probs.mean(0)  # (E,) each
    usage = usage + (MIN_USAGE - usage.detach()).clamp(min=0.0)  # (E,)
    return (torch.xlogy(target, target) - target * usage.log()).sum() / math.log(experts)


def usage_entropy_loss(probs: Tensor, allowed: Tensor) -> Tensor:
    """Return 1 − H(mean_b q) / log E, low if experts are used equally; it has almost no gradient for an unused one."""
    experts = probs.shape[-1]
    return probs.sum() * 0.0 if _nothing_to_balance(probs) else 1.0 - _entropy(probs.mean(0)) / math.log(experts)


def text_entropy_loss(probs: Tensor, allowed: Tensor) -> Tensor:
    """Return mean_b H(q_b) / log E, the entropy per text of FinTeamExperts (eq. 5): low if each text has one expert."""
    experts = probs.shape[-1]
    return probs.sum() * 0.0 if _nothing_to_balance(probs) else _entropy(probs).mean() / math.log(experts)


def _nothing_to_balance(probs: Tensor) -> bool:
    """Whether there is only one expert, or no text."""
    return probs.shape[-1] == 1 or not len(probs)


def _entropy(probs: Tensor) -> Tensor:
    return -(probs * probs.clamp(min=1e-12).log()).sum(-1)


BALANCE_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kl": balance_loss,
    "usage": usage_entropy_loss,
    "text": text_entropy_loss,
}
