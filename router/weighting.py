"""What every balance of losses needs: which are usable, how hard each pulls, their sum; and constant weights (eq. 8).

How weights adapt is `router.dao`'s.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

At = Tensor | Iterable[Tensor]


def usable(losses: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The losses that are there and finite."""
    return {name: loss for name, loss in losses.items() if loss is not None and bool(torch.isfinite(loss.detach()))}


def weighed_sum(losses: Mapping[str, Tensor | None], weights: Mapping[str, Tensor]) -> Tensor:
    """Σ c_i L_i of the losses that have a weight; a 0 that `backward` accepts, and that moves nothing, if none has."""
    given = {name: loss for name, loss in losses.items() if loss is not None}
    parts = [c.to(given[name].device) * given[name] for name, c in weights.items()]
    if not parts:
        return torch.zeros((), device=next((loss.device for loss in given.values()), None), requires_grad=True)
    return torch.stack(parts).sum()


def measure(losses: Mapping[str, Tensor], at: At, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Gradient norm of each loss where they all meet (eq. 10).

    At a state (B, D): `√B_i · ‖∂L_i/∂h‖_F`, so that a loss on few rows is not taken for an easy one.
    At parameters: the L2 norm over all of them, the paper's measure.
    """
    if isinstance(at, Tensor):
        return {name: _norm(loss, [at]) * rows.get(name, len(at)) ** 0.5 for name, loss in losses.items()}
    places = list(at)
    return {name: _norm(loss, places) for name, loss in losses.items()}


def _norm(loss: Tensor, at: Iterable[Tensor]) -> Tensor:
    places = [one for one in at if one.requires_grad]
    if not loss.requires_grad or not places:
        return loss.new_zeros(())
    grads = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
    norms = [grad.norm() for grad in grads if grad is not None]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())


class Constant:
    """Constant weights behind DAO's own surface, so that no training loop has to ask which of the two it has.

    Args:
        weights: by loss (eq. 8).
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.constants = dict(weights)

    def combine(
        self,
        losses: Mapping[str, Tensor | None],
        at: At | None = None,
        rows: Mapping[str, int] | None = None,
        norms: Mapping[str, Tensor | float] | None = None,
    ) -> Tensor:
        """`Σ w_i L_i` over the losses that are present and finite."""
        return weighed_sum(losses, self.weights(losses))

    def weights(
        self, losses: Mapping[str, Tensor | None], norms: Mapping[str, Tensor | float] | None = None
    ) -> dict[str, Tensor]:
        """The constants of the losses present."""
        return {name: torch.tensor(self.constants[name]) for name in usable(losses)}

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Constants measure nothing."""

    def trajectory(self) -> dict[str, float]:
        """The constants, for logs."""
        return {f"w_{name}": value for name, value in self.constants.items()}

    def state(self) -> dict[str, Tensor]:
        """Nothing to keep."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to restore."""
