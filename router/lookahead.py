"""A virtual step: where shared weights would go, and which loss's gradient helps a held-out loss there (first order).

What is made of it is `router.dao`'s; it is after Ren et al. 2018, "Learning to reweight examples", applied to losses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LookAhead:
    """What a virtual step needs.

    Args:
        parameters: shared by the losses; those that do not learn are passed over.
        held_out: gives the loss to lower, on a batch other than this step's, with the parameters as they then are.
        total: sums a gradient over processes that each know their own rows' part of it; one process knows it all.
    """

    parameters: Sequence[Tensor]
    held_out: Callable[[], Tensor]
    total: Callable[[Tensor], Tensor] = lambda gradient: gradient

    def helps(self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], rate: float) -> dict[str, float]:
        """`⟨∇H(θ'), ∇L_i(θ)⟩ / ‖∇H(θ')‖` of each loss, with θ' after a virtual step down Σ c_i L_i.

        The step is as long as Adam's would be, `rate · √P` for P weights: gradients' scale plays no part. The weights
        stand as they stood when it returns, bit for bit, and the losses can still be gone back from.

        Args:
            losses: of this step's batch, by name.
            weights: c_i.
            rate: the virtual step's, as of an Adam.

        Returns:
            empty where nothing shared learns, or the held-out loss is flat or not finite.
        """
        places = [one for one in self.parameters if one.requires_grad]
        if not places:
            return {}
        each = {name: self._gradient(loss, places, keep=True) for name, loss in losses.items()}
        step = _mixed([[weights[name].to(g) * g for g in grads] for name, grads in each.items()])
        with _moved(places, step, rate):
            ahead = self._gradient(self.held_out(), places, keep=False)
        norm = _dot(ahead, ahead).sqrt()
        if not torch.isfinite(norm) or norm <= 0:
            return {}
        return {name: float(_dot(ahead, grads) / norm) for name, grads in each.items()}

    def _gradient(self, loss: Tensor, places: Sequence[Tensor], keep: bool) -> list[Tensor]:
        if not loss.requires_grad:
            return [torch.zeros_like(one) for one in places]
        found = torch.autograd.grad(loss, places, retain_graph=keep, allow_unused=True)
        return [self.total(torch.zeros_like(p) if g is None else g) for g, p in zip(found, places, strict=True)]


def _mixed(parts: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(list(same)).sum(0) for same in zip(*parts, strict=True)]


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(first, second, strict=True)]).sum()


@contextmanager
def _moved(places: Sequence[Tensor], direction: Sequence[Tensor], rate: float) -> Iterator[None]:
    """Move weights down a direction while it lasts.

    Through `.data`, which autograd does not count: the graph of this step's losses stays good, since the values that
    it needs are back before anybody goes back through it.
    """
    length = _dot(direction, direction).sqrt()
    scale = rate * sum(one.numel() for one in places) ** 0.5 / length.clamp(min=1e-12)
    before = [one.data.clone() for one in places]
    try:
        for place, way in zip(places, direction, strict=True):
            place.data.sub_(scale.to(way) * way)
        torch.clear_autocast_cache()  # it holds half-precision copies of the weights as they were
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.data.copy_(value)
        torch.clear_autocast_cache()
