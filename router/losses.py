"""Losses and their weighting: of classes, of the router's soft gates q (B, E), and what all loss weightings share.

The weightings other than constant weights (eq. 8) are in `router.dao` and `router.mtl_baselines`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from router.lookahead import LookAhead

MIN_USAGE = 1e-6


def effective_number_weights(counts: Tensor, beta: float) -> Tensor:
    """Return class weights (K,) by effective number of samples, `(1 − β) / (1 − β^n_k)` (Cui et al. 2019).

    They are scaled to mean 1 over the classes that have rows.

    Args:
        counts: training rows of each class (K,); a class without rows gets weight 0.
        beta: β; 0 gives all classes the same weight, values towards 1 approach 1 / n_k. At β = 0.99 classes with more
            than a few hundred rows have practically equal weights.
    """
    effective = torch.where(counts > 0, (1.0 - beta ** counts.double()) / (1.0 - beta), 0.0)  # (K,)
    weights = torch.where(counts > 0, 1.0 / effective, 0.0)  # (K,)
    return (weights / weights.sum().clamp(min=1e-12) * (counts > 0).sum()).float()  # (K,)


def row_losses(logits: Tensor, labels: Tensor, mask: Tensor, focal: float = 0.0, smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of each row (B,), with label smoothing and the focal factor `(1 − p_true)^γ`.

    The focal factor uses the probability of the true label, also with smoothing (Lin et al. 2017).

    Args:
        logits: (B, K), with the lowest float for labels that a row's task does not use.
        labels: true labels (B,).
        mask: (B, K) bool, the labels of each row's task.
        focal: γ; 0 disables the focal factor.
        smoothing: probability mass spread evenly over the task's labels.
    """
    log_probs = logits.log_softmax(-1)  # (B, K)
    true = log_probs.gather(1, labels[:, None])[:, 0]  # (B,)
    losses = -true  # (B,)
    if smoothing:
        uniform = log_probs.masked_fill(~mask, 0.0).sum(1) / mask.sum(1)  # (B,)
        losses = (1.0 - smoothing) * losses - smoothing * uniform  # (B,)
    # The minimum keeps the gradient finite where γ < 1: a root has none at 0.
    return losses * (-torch.expm1(true)).clamp(min=1e-6) ** focal if focal else losses  # (B,)


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

GradientInputs = Tensor | Iterable[Tensor]
"""What losses are differentiated with respect to: a shared state (B, D) or shared parameters."""


def finite_losses(losses: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Return the losses that are present and finite."""
    return {name: loss for name, loss in losses.items() if loss is not None and bool(torch.isfinite(loss.detach()))}


def weighted_sum(losses: Mapping[str, Tensor | None], weights: Mapping[str, Tensor]) -> Tensor:
    """Return Σ c_i L_i over the losses that have a weight; without any, a 0 whose `backward` does nothing."""
    present = {name: loss for name, loss in losses.items() if loss is not None}
    terms = [c.to(present[name].device) * present[name] for name, c in weights.items()]
    if not terms:
        return torch.zeros((), device=next((loss.device for loss in present.values()), None), requires_grad=True)
    return torch.stack(terms).sum()


def relative_weights(weights: Mapping[str, Tensor], reference: str, bounds: tuple[float, float]) -> dict[str, Tensor]:
    """Return weights divided by that of the reference loss, c_i / c_ref, all others clamped to the bounds."""
    unit = weights[reference].clamp(min=1e-12)
    return {name: c / unit if name == reference else (c / unit).clamp(*bounds) for name, c in weights.items()}


def weights_by_rows(weights: Mapping[str, Tensor], rows: Mapping[str, int], main: str = "classes") -> dict[str, Tensor]:
    """Return weights that apply only to the rows that carry a loss beside the main one.

    A loss that a share s of the rows carries gets the weight s · c, and the main loss 1 - s + s · c: rows without the
    other loss count for the main one in full. If all rows carry both, or one loss alone, nothing changes.

    Args:
        weights: c of two losses, or of one.
        rows: number of rows that carry each loss.
        main: name of the main loss.
    """
    if len(weights) < 2 or main not in weights:
        return dict(weights)
    share = min(1.0, max(rows[name] for name in weights if name != main) / rows[main])
    return {name: 1 - share + share * c if name == main else share * c for name, c in weights.items()}


def gradient_norms(losses: Mapping[str, Tensor], at: GradientInputs, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the gradient norm of each loss (eq. 10).

    At a state (B, D) it is `√B_i · ‖∂L_i/∂h‖_F`, so that a loss on few rows does not appear easier than it is.
    At parameters it is the L2 norm over all of them, as in the paper.

    Args:
        losses: scalars by name.
        at: the shared state (B, D), or the shared parameters.
        rows: number of rows B_i of each loss, used for a state; B by default.
    """
    if isinstance(at, Tensor):
        return {name: _norm(loss, [at]) * rows.get(name, len(at)) ** 0.5 for name, loss in losses.items()}
    parameters = list(at)
    return {name: _norm(loss, parameters) for name, loss in losses.items()}


def loss_gradients(losses: Mapping[str, Tensor], at: GradientInputs) -> dict[str, Tensor]:
    """Return the gradient of each loss as one vector (P,), with zeros for inputs that it does not depend on."""
    inputs = [tensor for tensor in ([at] if isinstance(at, Tensor) else at) if tensor.requires_grad]
    return {name: _flatten(_grads(loss, inputs), inputs) for name, loss in losses.items()}


def _norm(loss: Tensor, at: Iterable[Tensor]) -> Tensor:
    inputs = [tensor for tensor in at if tensor.requires_grad]
    norms = [grad.norm() for grad in _grads(loss, inputs) if grad is not None]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())


def _grads(loss: Tensor, inputs: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad or not inputs:
        return (None,) * len(inputs)
    return torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)


def _flatten(grads: Iterable[Tensor | None], inputs: list[Tensor]) -> Tensor:
    parts = [(torch.zeros_like(x) if g is None else g).flatten() for g, x in zip(grads, inputs, strict=True)]
    return torch.cat(parts) if parts else torch.zeros(0)  # (P,)


@dataclass(frozen=True)
class StepMeasurements:
    """What was measured in a step.

    Args:
        norms: gradient norms by loss.
        gradients: gradients (P,) by loss.
        lookahead: parameters and held-out loss of a virtual step.
    """

    norms: Mapping[str, Tensor | float]
    gradients: Mapping[str, Tensor]
    lookahead: LookAhead | None


class LossWeighting(ABC):
    """Weights of several losses, updated step by step.

    `requires` declares what a method measures in a step: the values of the losses, the norms of their gradients, or the
    gradients.
    """

    requires: ClassVar[Literal["losses", "norms", "gradients"]] = "losses"
    clip_relative_weights: ClassVar[bool] = True
    """Whether its relative weights may diverge and must therefore be clamped to bounds."""

    def combine(
        self,
        losses: Mapping[str, Tensor | None],
        at: GradientInputs | None = None,
        rows: Mapping[str, int] | None = None,
        norms: Mapping[str, Tensor | float] | None = None,
        lookahead: LookAhead | None = None,
    ) -> Tensor:
        """Return `Σ c_i L_i` (eq. 9) over the losses that are present and finite.

        Args:
            losses: scalars by name; None or no entry means absent.
            at: the shared state (B, D) at which gradients are measured, or the shared parameters as in the paper.
            rows: number of rows B_i of each loss; B by default.
            norms: gradient norms measured elsewhere, instead of `at`.
            lookahead: parameters and held-out loss of a virtual step, for methods that use one.
        """
        present, gradients = finite_losses(losses), None
        if at is not None and torch.is_grad_enabled() and self.update_due:
            if self.requires == "norms":
                norms = gradient_norms(present, at, rows or {})
            elif self.requires == "gradients":
                gradients = loss_gradients(present, at)
        return weighted_sum(losses, self.weights(present, norms, gradients, lookahead))

    @property
    def update_due(self) -> bool:
        """Whether this step measures gradients and updates the weights."""
        return True

    def weights(
        self,
        losses: Mapping[str, Tensor | None],
        norms: Mapping[str, Tensor | float] | None = None,
        gradients: Mapping[str, Tensor] | None = None,
        lookahead: LookAhead | None = None,
    ) -> dict[str, Tensor]:
        """Return c_i of the losses that are present and finite, detached, and update the method's state.

        The state is not updated under `torch.no_grad()`.

        Args:
            losses: scalars by name; None or no entry means absent.
            norms: gradient norms of this step.
            gradients: gradients of this step, as vectors (P,).
            lookahead: parameters and held-out loss of a virtual step.
        """
        measurements = StepMeasurements(norms=norms or {}, gradients=gradients or {}, lookahead=lookahead)
        return self.compute_weights(finite_losses(losses), measurements)

    @abstractmethod
    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return the weights of losses that are all present and finite, and update the method's state."""

    def observe(self, name: str, norm: Tensor | float) -> None:  # noqa: B027
        """Record the gradient norm of a loss that was measured elsewhere; ignored by methods without norms."""

    @abstractmethod
    def log_values(self) -> dict[str, float]:
        """Return values of the last step for logs: `w_NAME` and others."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state that a resumed run needs, as tensors by name."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Restore the state of `state_dict`."""


class ConstantWeighting(LossWeighting):
    """Constant weights (eq. 8).

    Args:
        weights: weight of each loss by name.
    """

    clip_relative_weights = False

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.constants = dict(weights)

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return the constants of the losses present."""
        return {name: torch.tensor(self.constants[name]) for name in present}

    def log_values(self) -> dict[str, float]:
        """Return `w_NAME` of all losses."""
        return {f"w_{name}": value for name, value in self.constants.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return an optimizer's moments as tensors by name, `adam.PARAMETER.KEY`."""
    moments = optimizer.state_dict()["state"]
    return {
        f"adam.{i}.{key}": torch.as_tensor(value).clone()
        for i, parameter_state in moments.items()
        for key, value in parameter_state.items()
    }


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Restore an optimizer's moments from `optimizer_state`; tensors of other names are ignored."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
