"""From router logits to the gates of a pass: which experts a text may use, and how a mode changes its gates."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experts.domain import Domain
from moe.model.mode import RoutingMode
from router.gate import Gate, GateOutput, equal_gates, hard_gates, prune_gates, restrict_gates


def mix_gates(
    gate: Gate, logits: Tensor, mode: RoutingMode, allowed: Tensor | None, remaining: Tensor | None
) -> GateOutput:
    """Return the gates of logits (B', G + E), or (B', T, G + E) of tokens, in a mode.

    Args:
        allowed: (B, E) bool, restricts each text to these experts; the beams of a text, B' / B, are adjacent.
        remaining: (E,) bool, experts that the mode does not leave out; None for all.
    """
    mixed = gate.compute_gates(logits)
    mixed = equal_gates(mixed) if mode.uniform_gates else mixed
    if remaining is not None and remaining.any():
        allowed = remaining[None] if allowed is None else restrict_allowed(allowed, remaining)  # (B, E) or (1, E)
    if allowed is not None:
        mixed = restrict_gates(mixed, allowed.repeat_interleave(logits.shape[0] // allowed.shape[0], 0))
    mixed = prune_gates(mixed, mode.prune) if mode.prune else mixed
    return hard_gates(mixed) if mode.hard else mixed


def build_domain_expert_mask(experts: Sequence[str], domains: Sequence[Domain]) -> Tensor:
    """Return (domains, E) bool: which experts belong to each domain."""
    rows = [[name in domain.expert_names for name in experts] for domain in domains]
    return torch.tensor(rows, dtype=torch.bool).reshape(len(domains), len(experts))


def restrict_allowed(allowed: Tensor, mask: Tensor) -> Tensor:
    """Return (B, E) bool: a text's allowed experts (B, E) within a mask (E,); the whole mask if none of them is."""
    both = allowed & mask  # (B, E)
    return torch.where(both.any(-1, keepdim=True), both, mask)  # (B, E)


def allowed_experts(domain_expert_mask: Tensor, domain: Tensor) -> Tensor:
    """Return (B, E) bool from domain indices (B,); a row of False where the domain is unknown (−1)."""
    return domain_expert_mask[domain.clamp(min=0)] & (domain >= 0)[:, None]
