"""What a forward pass of the mixture returns, and the state that it keeps while it runs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from moe.model.mode import SOFT, RoutingMode


@dataclass
class RouterOutput:
    """Router output of one forward pass; (B, T, ·) instead of (B, ·) if tokens are routed.

    Args:
        gates: (B, E), weights by which the experts are mixed.
        probs: (B, E), soft probabilities, for the routing losses and for reports.
        logits: (B, G + E), read by the domain and balance losses.
        logits_for_loss: the same values on the path of the sentiment loss only, so that its gradient can be separated.
        updates: (B, E), gates with which the adapters are computed: `gates`, or 0 in an unfamiliar text that the shared
            expert answers alone.
        unfamiliar: (B,) bool, texts far from every prototype; None for a router without prototypes.
    """

    gates: Tensor
    probs: Tensor
    logits: Tensor
    logits_for_loss: Tensor
    updates: Tensor
    unfamiliar: Tensor | None = None

    def rows(self, index: Tensor) -> "RouterOutput":
        """Return the output of some of the texts."""
        columns: Any = {name: None if values is None else values[index] for name, values in vars(self).items()}
        return RouterOutput(**columns)

    @classmethod
    def concatenate(cls, parts: Sequence["RouterOutput"]) -> "RouterOutput":
        """Return the output of the texts of several passes, one after the other."""
        columns: Any = {
            name: None if first is None else torch.cat([getattr(part, name) for part in parts])
            for name, first in vars(parts[0]).items()
        }
        return cls(**columns)


@dataclass
class MixtureOutput:
    """Output of one forward pass.

    Args:
        pooled: (B, D), pooled state. For a language model, which has no heads here: (B, T, D), the last hidden states
            that its own head reads. While only a router is trained, with detached gates: (B, T, D), those of the trunk.
        logits: (B, K) by head; none while only a router is trained with detached gates.
        polarity: (B,), or None without a polarity head.
        routing: router output; None for a constant route.
        gates: (B, E), or (B, T, E) if tokens are routed, weights with which the routed experts were computed; one row
            for all texts of a constant route.
    """

    pooled: Tensor
    logits: dict[str, Tensor]
    polarity: Tensor | None
    routing: RouterOutput | None
    gates: Tensor


@dataclass
class ForwardContext:
    """State of the forward pass in progress, read by the hook at the end of the trunk.

    Args:
        content: (B, T) bool, tokens that the router reads.
        allowed: (B, E) bool, experts that each text may use; None for all.
        mode: how texts are routed.
        trunk: (B, T, D), precomputed trunk states.
        stop: whether the pass ends at the end of the trunk.
        route: whether the router runs; else the experts keep the route of the pass before.
        keep: whether the route is reused for later passes, as in generation.
        known: router output of these texts from another pass; the router then does not run.
        routing: router output, filled in by the hook.
        probs: soft probabilities of the passes so far, if `keep`.
        grad: whether gradients are recorded.
    """

    content: Tensor
    allowed: Tensor | None
    mode: RoutingMode = SOFT
    trunk: Tensor | None = None
    stop: bool = False
    route: bool = True
    keep: bool = False
    known: RouterOutput | None = None
    routing: RouterOutput | None = None
    probs: list[Tensor] = field(default_factory=list)
    grad: bool = field(default_factory=torch.is_grad_enabled)
