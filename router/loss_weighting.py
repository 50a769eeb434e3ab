"""What every balance of losses stands on: which are usable, how they pull, their sum; and constant weights (eq. 8).

How weights adapt is `router.dao`'s and `router.mtl_baselines`'.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from router.lookahead import LookAhead

GradientInputs = Tensor | Iterable[Tensor]


def finite_losses(losses: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The losses that are there and finite."""
    return {name: loss for name, loss in losses.items() if loss is not None and bool(torch.isfinite(loss.detach()))}


def weighted_sum(losses: Mapping[str, Tensor | None], weights: Mapping[str, Tensor]) -> Tensor:
    """Σ c_i L_i of the losses that have a weight; a 0 that `backward` accepts, and that moves nothing, if none has."""
    given = {name: loss for name, loss in losses.items() if loss is not None}
    parts = [c.to(given[name].device) * given[name] for name, c in weights.items()]
    if not parts:
        return torch.zeros((), device=next((loss.device for loss in given.values()), None), requires_grad=True)
    return torch.stack(parts).sum()


def relative_weights(weights: Mapping[str, Tensor], to: str, bounds: tuple[float, float]) -> dict[str, Tensor]:
    """Weights in units of one loss's own, c_i / c_to, the others held within bounds."""
    unit = weights[to].clamp(min=1e-12)
    return {name: c / unit if name == to else (c / unit).clamp(*bounds) for name, c in weights.items()}


def gradient_norms(losses: Mapping[str, Tensor], at: GradientInputs, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Gradient norm of each loss where they all meet (eq. 10).

    At a state (B, D): `√B_i · ‖∂L_i/∂h‖_F`, so that a loss on few rows is not taken for an easy one.
    At parameters: the L2 norm over all of them, the paper's measure.
    """
    if isinstance(at, Tensor):
        return {name: _norm(loss, [at]) * rows.get(name, len(at)) ** 0.5 for name, loss in losses.items()}
    places = list(at)
    return {name: _norm(loss, places) for name, loss in losses.items()}


def loss_gradients(losses: Mapping[str, Tensor], at: GradientInputs) -> dict[str, Tensor]:
    """Gradient of each loss where they all meet, as one vector (P,); zeros where it does not reach."""
    places = [one for one in ([at] if isinstance(at, Tensor) else at) if one.requires_grad]
    return {name: _flat(_grads(loss, places), places) for name, loss in losses.items()}


def _norm(loss: Tensor, at: Iterable[Tensor]) -> Tensor:
    norms = [grad.norm() for grad in _grads(loss, [one for one in at if one.requires_grad]) if grad is not None]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())


def _grads(loss: Tensor, places: list[Tensor]) -> tuple[Tensor | None, ...]:
    if not loss.requires_grad or not places:
        return (None,) * len(places)
    return torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)


def _flat(grads: Iterable[Tensor | None], places: list[Tensor]) -> Tensor:
    parts = [(torch.zeros_like(p) if g is None else g).flatten() for g, p in zip(grads, places, strict=True)]
    return torch.cat(parts) if parts else torch.zeros(0)  # (P,)


@dataclass(frozen=True)
class StepMeasurements:
    """What was measured in a step, by loss: gradient norms, gradients (P,); and what a virtual step needs."""

    norms: Mapping[str, Tensor | float]
    grads: Mapping[str, Tensor]
    look: LookAhead | None


class LossWeighting(ABC):
    """A balance of losses: weights by name, step by step. All of them have this surface, so that no loop asks which.

    A method says in `reads` what it goes by: the losses' values, their gradients' norms, or the gradients.
    """

    reads: ClassVar[Literal["losses", "norms", "gradients"]] = "losses"
    bounded: ClassVar[bool] = True
    """Whether its relative weights may run away, so that they are held within bounds."""

    def combine(
        self,
        losses: Mapping[str, Tensor | None],
        at: GradientInputs | None = None,
        rows: Mapping[str, int] | None = None,
        norms: Mapping[str, Tensor | float] | None = None,
        look: LookAhead | None = None,
    ) -> Tensor:
        """`Σ c_i L_i` (eq. 9) over the losses that are present and finite.

        Args:
            losses: scalars by name; None or not there means absent.
            at: the shared state (B, D) where gradients are measured, or the shared parameters (the paper's measure).
            rows: B_i, the rows that carry each loss; B by default.
            norms: gradient norms measured elsewhere, instead of `at`.
            look: what a virtual step needs, for methods that take one.
        """
        present, found = finite_losses(losses), None
        if at is not None and torch.is_grad_enabled() and self.due:
            if self.reads == "norms":
                norms = gradient_norms(present, at, rows or {})
            elif self.reads == "gradients":
                found = loss_gradients(present, at)
        return weighted_sum(losses, self.weights(present, norms, found, look))

    @property
    def due(self) -> bool:
        """Whether this step measures."""
        return True

    def weights(
        self,
        losses: Mapping[str, Tensor | None],
        norms: Mapping[str, Tensor | float] | None = None,
        grads: Mapping[str, Tensor] | None = None,
        look: LookAhead | None = None,
    ) -> dict[str, Tensor]:
        """c_i of the losses that are present and finite, detached; what a method learns, it learns on the way.

        Under `torch.no_grad()` nothing is learned.

        Args:
            losses: scalars by name.
            norms: gradient norms of this step.
            grads: gradients of this step, as vectors (P,).
            look: what a virtual step needs.
        """
        return self.weigh(finite_losses(losses), StepMeasurements(norms or {}, grads or {}, look))

    @abstractmethod
    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """`weights` of losses that can be used."""

    def observe(self, name: str, norm: Tensor | float) -> None:  # noqa: B027
        """Take a gradient norm that was measured elsewhere; most methods need none."""

    @abstractmethod
    def trajectory(self) -> dict[str, float]:
        """`w_NAME` and what else there is to tell of the last step, for logs."""

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as tensors by name."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Go on from `state`."""


class ConstantWeighting(LossWeighting):
    """Constant weights (eq. 8).

    Args:
        weights: by loss.
    """

    bounded = False

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.constants = dict(weights)

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """The constants of the losses present."""
        return {name: torch.tensor(self.constants[name]) for name in present}

    def trajectory(self) -> dict[str, float]:
        """The constants."""
        return {f"w_{name}": value for name, value in self.constants.items()}


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's moments as tensors by name."""
    whole = optimizer.state_dict()["state"].items()
    return {f"adam.{i}.{key}": torch.as_tensor(value).clone() for i, one in whole for key, value in one.items()}


def load_optimizer_state(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """Fill the moments from `optimizer_state`; other names are passed over."""
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        if key.startswith("adam."):
            _, i, name = key.split(".")
            moments.setdefault(int(i), {})[name] = value.clone()
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
