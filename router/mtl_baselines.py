"""Loss weightings that DAO is compared with, with the same interface: uncertainty, DWA, GradNorm, PCGrad.

Uncertainty weighting, DWA and PCGrad use the implementations of torchjd.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from router.dao import DAO
from router.losses import (
    ConstantWeighting,
    LossWeighting,
    StepMeasurements,
    load_optimizer_state,
    optimizer_state,
)
from router.registry import ComparatorSettings, DAOSettings, WeightingKind


def _import_torchjd(module: str) -> Any:
    try:
        return import_module(f"torchjd.{module}")  # an extra: only these comparators need it
    except ImportError as error:
        message = "uncertainty, dwa and pcgrad need the package torchjd: pip install 'finmoe[balance]'"
        raise ModuleNotFoundError(message, name="torchjd") from error


class UncertaintyWeighting(LossWeighting):
    """Weights from learned uncertainties (Kendall et al. 2018): `L_i exp(−s_i) + s_i`, twice torchjd's UW.

    With the factor of two the weights are e^(−s_i), and s = 0 leaves the losses unchanged.

    Args:
        names: names of the losses.
        settings: `lr` is used.
    """

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names = tuple(names)
        # A separate UW per loss, so that an absent loss does not update its uncertainty.
        self.uw = nn.ModuleDict({name: _import_torchjd("scalarization").UW(1) for name in names})
        self.optimizer = torch.optim.Adam(self.uw.parameters(), lr=settings.lr)
        self._log_values: dict[str, float] = {}

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return e^(−s_i) of the losses present, and update s by one optimizer step."""
        learns, weights = torch.is_grad_enabled(), {}
        for name, loss in present.items():
            value = loss.detach().cpu().float().reshape(1).requires_grad_()  # (1,)
            with torch.enable_grad():
                weighted = 2.0 * self.uw[name](value)
            weighted.backward()
            assert value.grad is not None
            weights[name] = value.grad[0]
        if learns:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._log_values = {f"w_{name}": float(w) for name, w in weights.items()}
        return weights

    def log_values(self) -> dict[str, float]:
        """Return `w_NAME` of the losses of the last step."""
        return self._log_values

    def state_dict(self) -> dict[str, Tensor]:
        """Return the uncertainties and the optimizer's moments."""
        uncertainties = {f"uw.{name}": value.clone() for name, value in self.uw.state_dict().items()}
        return uncertainties | optimizer_state(self.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        self.uw.load_state_dict({k.removeprefix("uw."): v for k, v in state.items() if k.startswith("uw.")})
        load_optimizer_state(self.optimizer, state)


class DynamicWeightAverage(LossWeighting):
    """DWA (Liu et al. 2019), from torchjd: a loss that falls more slowly than the others gets more weight.

    A loss that is absent in a step counts with its last value.

    Args:
        names: names of the losses.
        settings: `dwa_every` and `dwa_temperature` are used.
    """

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names, self.every, self.temperature = tuple(names), settings.dwa_every, settings.dwa_temperature
        self.values = torch.full((len(self.names),), math.nan)
        # Mean losses of the last two periods and the losses of the current one; saved, so that a run can be resumed.
        self.period_means = torch.zeros(0, len(self.names))
        self.period_values = torch.zeros(0, len(self.names))
        self._log_values: dict[str, float] = {}

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return `n softmax(r / T)`, r the ratio of the last two periods' mean losses; 1 until there are two."""
        indices = [i for i, name in enumerate(self.names) if name in present]
        for i in indices:
            self.values[i] = float(present[self.names[i]].detach())
        weights = self._all_weights()  # (n,)
        if torch.is_grad_enabled() and not self.values.isnan().any():
            self._add_to_period()
        self._log_values = {f"w_{self.names[i]}": float(weights[i]) for i in indices}
        return {self.names[i]: weights[i] for i in indices}

    def _all_weights(self) -> Tensor:
        """Return the weights of all losses (n,), from torchjd's DWA given the means of the last periods."""
        dwa = _import_torchjd("scalarization").DWA(self.temperature)
        for mean in self.period_means:
            dwa(mean)
            dwa.step()
        losses = torch.ones(len(self.names), requires_grad=True)  # (n,)
        with torch.enable_grad():
            (weights,) = torch.autograd.grad(dwa(losses), losses)
        return weights  # (n,)

    def _add_to_period(self) -> None:
        self.period_values = torch.cat([self.period_values, self.values[None].clamp(min=1e-12)])
        if len(self.period_values) == self.every:
            self.period_means = torch.cat([self.period_means, self.period_values.mean(0, keepdim=True)])[-2:]
            self.period_values = self.period_values[:0]

    def log_values(self) -> dict[str, float]:
        """Return `w_NAME` of the losses of the last step."""
        return self._log_values

    def state_dict(self) -> dict[str, Tensor]:
        """Return the last losses, the mean losses of the last periods, and the losses of the current one."""
        return {
            "values": self.values.clone(),
            "history": self.period_means.clone(),
            "seen": self.period_values.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        self.values, self.period_means, self.period_values = (
            state[key].clone() for key in ("values", "history", "seen")
        )


class GradNorm(LossWeighting):
    """GradNorm (Chen et al. 2018, eq. 1, 2): weights that move each loss's gradient norm to `mean · r_i^α`.

    Args:
        names: names of the losses.
        settings: `lr` and `gradnorm_alpha` are used.
    """

    requires = "norms"

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names, self.alpha = tuple(names), settings.gradnorm_alpha
        self.w = nn.Parameter(torch.ones(len(self.names)))
        self.optimizer = torch.optim.Adam([self.w], lr=settings.lr)
        self.initial_losses = torch.full((len(self.names),), math.nan)
        self.norms = torch.full((len(self.names),), math.nan)
        self._log_values: dict[str, float] = {}

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return w_i of the losses present, and update w by one optimizer step."""
        indices = [i for i, name in enumerate(self.names) if name in present]
        if torch.is_grad_enabled():
            for name, norm in measurements.norms.items():
                self.observe(name, norm)
            self._update(indices, torch.tensor([float(present[self.names[i]].detach()) for i in indices]))
        weights = {self.names[i]: self.w.detach()[i].clone() for i in indices}
        self._log_values = {f"w_{name}": float(w) for name, w in weights.items()}
        return weights

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Record a loss's gradient norm; a norm that is not finite is ignored."""
        if math.isfinite(value := float(norm)):
            self.norms[self.names.index(name)] = value

    def _update(self, indices: list[int], values: Tensor) -> None:
        initial = self.initial_losses[indices]  # (n',)
        self.initial_losses[indices] = torch.where(initial.isnan(), values.clamp(min=1e-12), initial)  # (n',)
        if len(indices) < 2 or self.norms[indices].isnan().any():
            return
        weighted_norms = self.w[indices] * self.norms[indices]  # (n',)
        ratio = values / self.initial_losses[indices]  # (n',)
        relative_ratio = ratio / ratio.mean().clamp(min=1e-12)  # (n',)
        target = (weighted_norms.mean() * relative_ratio**self.alpha).detach()  # (n',)
        (weighted_norms - target).abs().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.w.clamp_(min=1e-3)
            self.w.mul_(len(self.names) / self.w.sum())

    def log_values(self) -> dict[str, float]:
        """Return `w_NAME` of the losses of the last step."""
        return self._log_values

    def state_dict(self) -> dict[str, Tensor]:
        """Return the weights, the initial losses, the last norms and the optimizer's moments."""
        state = {"w": self.w.detach().clone(), "first": self.initial_losses.clone(), "norms": self.norms.clone()}
        return state | optimizer_state(self.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        with torch.no_grad():
            self.w.copy_(state["w"])
        self.initial_losses, self.norms = state["first"].clone(), state["norms"].clone()
        load_optimizer_state(self.optimizer, state)


class PCGrad(LossWeighting):
    """PCGrad (Yu et al. 2020), from torchjd: conflicting gradients are projected onto each other's normal plane.

    The sum of the projected gradients is a weighted sum of the gradients; its weights follow from their inner products.
    If gradients are measured at a state, so are conflicts.

    Args:
        names: names of the losses.
        seed: seed of the random order of projections.
    """

    requires = "gradients"
    clip_relative_weights = False

    def __init__(self, names: Sequence[str], seed: int = 0) -> None:
        self.names, self.seed, self.step = tuple(names), seed, 0
        self._log_values: dict[str, float] = {}

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return c_i of the losses present; 1 if there are no gradients."""
        names = list(present)
        weights = torch.ones(len(names))  # (n',)
        if measurements.gradients and names:
            grads = [measurements.gradients[name].detach().float().cpu() for name in names]
            stack = torch.stack(grads)  # (n', P)
            with torch.random.fork_rng(devices=[]):  # the order is random; the caller's random state must not change
                torch.manual_seed(self.seed + self.step)
                weights = _import_torchjd("aggregation").PCGradWeighting()(stack @ stack.T)  # (n',)
            self.step += 1
        self._log_values = {f"w_{name}": float(c) for name, c in zip(names, weights, strict=True)}
        return dict(zip(names, weights, strict=True))

    def log_values(self) -> dict[str, float]:
        """Return `w_NAME` of the losses of the last step."""
        return self._log_values

    def state_dict(self) -> dict[str, Tensor]:
        """Return the step, which seeds the order of projections."""
        return {"step": torch.tensor(self.step)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        self.step = int(state["step"])


def build_weighting(
    kind: WeightingKind,
    names: Sequence[str],
    dao: DAOSettings,
    constants: Mapping[str, float],
    seed: int = 0,
    comparators: ComparatorSettings = ComparatorSettings(),
) -> LossWeighting:
    """Build the loss weighting of a kind.

    Args:
        kind: which weighting to build.
        names: names of the losses.
        dao: settings of DAO.
        constants: weights of kind `constant` by name.
        seed: seed of DAO's weight net and of PCGrad.
        comparators: settings of the other methods.
    """
    builders: dict[str, Callable[[], LossWeighting]] = {
        "dao": lambda: DAO(names, dao, seed),
        "constant": lambda: ConstantWeighting({name: constants[name] for name in names}),
        "equal": lambda: ConstantWeighting(dict.fromkeys(names, 1.0)),
        "uncertainty": lambda: UncertaintyWeighting(names, comparators),
        "dwa": lambda: DynamicWeightAverage(names, comparators),
        "gradnorm": lambda: GradNorm(names, comparators),
        "pcgrad": lambda: PCGrad(names, seed),
    }
    return builders[kind]()
