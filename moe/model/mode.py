"""How a forward pass of the mixture routes its texts: one immutable argument instead of state on the model."""

from dataclasses import dataclass, replace
from typing import Literal

Routing = Literal["soft", "pruned", "hard"]
"""All experts by their weights, those with a weight that is not small, or the most probable one."""
RoutingChoice = Literal["auto", "soft", "pruned", "hard"]
"""The same; `auto` is the one that was chosen on validation rows when the mixture was saved."""


@dataclass(frozen=True)
class RoutingMode:
    """How one forward pass routes its texts; the default is the soft mixture of all experts.

    Args:
        active_expert: use only this expert, with the shared ones, and no router: the constant route.
        hard: send each text, or token, to its single most probable expert.
        prune: gates below it are set to 0 and the others of the text rescaled to sum 1; 0 keeps all.
        only: routed experts to compute, if the caller knows that the gates of all others are 0; all by default. A
            single one must have a gate of 1 in every text.
        without: routed or shared experts that are left out; the gates of the others are renormalized. Without any
            expert the bare backbone runs.
        uniform_gates: give the routed experts equal weights instead of the router's.
        detach_gates: stop gradients at the gates, for a router that is trained without its experts.
        backbone_grad: record gradients in the backbone; without, they end at the heads and the router.
        replacement: an adapter of `ExpertBank.replacement_adapter` that is computed in place of the routed experts,
            whatever their gates.
    """

    active_expert: str | None = None
    hard: bool = False
    without: tuple[str, ...] = ()
    uniform_gates: bool = False
    detach_gates: bool = False
    backbone_grad: bool = True
    replacement: str | None = None
    prune: float = 0.0
    only: tuple[str, ...] = ()

    @property
    def is_soft(self) -> bool:
        """Whether this is the soft mixture, pruned or not."""
        return replace(self, prune=0.0, only=()) == SOFT

    def as_hard(self, hard: bool) -> "RoutingMode":
        """Return this mode with hard or soft routing."""
        return replace(self, hard=hard)


SOFT = RoutingMode()
