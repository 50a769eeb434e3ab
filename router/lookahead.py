"""A virtual optimizer step, and which losses' gradients lower a held-out loss after it, to first order.

Based on Ren et al. 2018, "Learning to Reweight Examples for Robust Deep Learning", applied to losses.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LookAhead:
    """The parameters and the held-out loss of a virtual step.

    Args:
        parameters: parameters that the losses share; those without `requires_grad` are ignored.
        held_out_loss: returns the loss on a batch other than this step's, with the current parameters.
        all_reduce: sums a gradient over processes that each have only their own rows' part; the identity by default.

    Examples:
        A loss that points where the held-out loss points has alignment 1:

        >>> import torch
        >>> from router import LookAhead
        >>> weight = torch.ones(3, requires_grad=True)
        >>> ahead = LookAhead([weight], lambda: weight.square().sum())
        >>> losses = {"classes": weight.sum(), "polarity": -weight.sum()}
        >>> weights = {"classes": torch.tensor(1.0), "polarity": torch.tensor(0.5)}
        >>> alignments = ahead.alignments(losses, weights, lr=1e-3)
        >>> alignments["classes"] > 0 > alignments["polarity"]
        True
    """

    parameters: Sequence[Tensor]
    held_out_loss: Callable[[], Tensor]
    all_reduce: Callable[[Tensor], Tensor] = lambda gradient: gradient

    def alignments(self, losses: Mapping[str, Tensor], weights: Mapping[str, Tensor], lr: float) -> dict[str, float]:
        """Return `⟨∇H(θ'), ∇L_i(θ)⟩ / ‖∇H(θ')‖` of each loss, with θ' after a virtual step down Σ c_i L_i.

        The step is as long as one of Adam, `lr · √P` for P parameters, whatever the scale of the gradients. The
        parameters are restored bit for bit, and the losses can still be used for a backward pass.

        Args:
            losses: losses of this step's batch, by name.
            weights: c_i, by the same names.
            lr: learning rate of the virtual step, as for Adam.

        Returns:
            alignment by name; empty if no shared parameter is trainable, or the held-out gradient is 0 or not finite.
        """
        parameters = [parameter for parameter in self.parameters if parameter.requires_grad]
        if not parameters:
            return {}
        gradients = {name: self._gradient(loss, parameters, retain_graph=True) for name, loss in losses.items()}
        direction = _sum([[weights[name].to(g) * g for g in grads] for name, grads in gradients.items()])
        with _virtual_step(parameters, direction, lr):
            held_out = self._gradient(self.held_out_loss(), parameters, retain_graph=False)
        norm = _dot(held_out, held_out).sqrt()
        if not torch.isfinite(norm) or norm <= 0:
            return {}
        return {name: float(_dot(held_out, grads) / norm) for name, grads in gradients.items()}

    def _gradient(self, loss: Tensor, parameters: Sequence[Tensor], retain_graph: bool) -> list[Tensor]:
        if not loss.requires_grad:
            return [torch.zeros_like(parameter) for parameter in parameters]
        grads = torch.autograd.grad(loss, parameters, retain_graph=retain_graph, allow_unused=True)
        return [
            self.all_reduce(torch.zeros_like(parameter) if grad is None else grad)
            for grad, parameter in zip(grads, parameters, strict=True)
        ]


def _sum(terms: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    return [torch.stack(list(tensors)).sum(0) for tensors in zip(*terms, strict=True)]


def _dot(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    return torch.stack([(a.float() * b.float()).sum() for a, b in zip(first, second, strict=True)]).sum()


@contextmanager
def _virtual_step(parameters: Sequence[Tensor], direction: Sequence[Tensor], lr: float) -> Iterator[None]:
    """Move parameters against a direction inside the context.

    This writes to `.data`, which does not change autograd's version counters, so that the graph of this step's losses
    remains valid: the values it needs are restored before its backward pass.
    """
    length = _dot(direction, direction).sqrt()
    scale = lr * sum(parameter.numel() for parameter in parameters) ** 0.5 / length.clamp(min=1e-12)
    before = [parameter.data.clone() for parameter in parameters]
    try:
        for parameter, change in zip(parameters, direction, strict=True):
            parameter.data.sub_(scale.to(change) * change)
        torch.clear_autocast_cache()  # it contains half-precision copies of the previous weights
        yield
    finally:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.data.copy_(value)
        torch.clear_autocast_cache()
