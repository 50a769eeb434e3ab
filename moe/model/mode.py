"""How a forward pass of the mixture routes its texts: one immutable argument instead of state on the model."""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class RoutingMode:
    """How one forward pass routes its texts; the default is the soft mixture of all experts.

    Args:
        active_expert: use only this expert, with the shared ones, and no router: the constant route.
        hard: send each text, or token, to its single most probable expert.
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

    def as_hard(self, hard: bool) -> "RoutingMode":
        """Return this mode with hard or soft routing."""
        return replace(self, hard=hard)


SOFT = RoutingMode()
