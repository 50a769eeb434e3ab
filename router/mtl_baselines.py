"""Other balances of losses behind DAO's own surface, to compare it with: uncertainty, DWA, GradNorm, PCGrad.

Their formulas are torchjd's where it has them. Constant weights are `router.loss_weighting`'s, DAO `router.dao`'s.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from router.dao import DAO, DAOSettings
from router.loss_weighting import (
    ConstantWeighting,
    LossWeighting,
    StepMeasurements,
    load_optimizer_state,
    optimizer_state,
)
from router.registry import ComparatorSettings, WeightingKind


def _torchjd(module: str) -> Any:
    try:
        return import_module(f"torchjd.{module}")  # an extra: only these comparators need it
    except ImportError as error:
        message = "uncertainty, dwa and pcgrad need the package torchjd: pip install 'finmoe[balance]'"
        raise ModuleNotFoundError(message, name="torchjd") from error


class UncertaintyWeighting(LossWeighting):
    """Weights from learned uncertainties (Kendall et al. 2018): `L_i exp(−s_i) + s_i`, twice torchjd's UW.

    Twice, so that s = 0 leaves the losses as they are; weights are e^(−s_i).
    """

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names = tuple(names)
        # One UW a loss: an absent one then teaches nothing.
        self.each = nn.ModuleDict({name: _torchjd("scalarization").UW(1) for name in names})
        self.optimizer = torch.optim.Adam(self.each.parameters(), lr=settings.lr)
        self._last: dict[str, float] = {}

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """e^(−s_i) of the losses present; s takes one step on the way."""
        learns, found = torch.is_grad_enabled(), {}
        for name, loss in present.items():
            value = loss.detach().cpu().float().reshape(1).requires_grad_()  # (1,)
            with torch.enable_grad():
                told = 2.0 * self.each[name](value)
            told.backward()
            assert value.grad is not None
            found[name] = value.grad[0]
        if learns:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self._last = {f"w_{name}": float(w) for name, w in found.items()}
        return found

    def trajectory(self) -> dict[str, float]:
        """`w_NAME` of the losses of the last step."""
        return self._last

    def state(self) -> dict[str, Tensor]:
        """Uncertainties and their optimizer."""
        found = {f"uw.{name}": value.clone() for name, value in self.each.state_dict().items()}
        return found | optimizer_state(self.optimizer)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.each.load_state_dict({k.removeprefix("uw."): v for k, v in state.items() if k.startswith("uw.")})
        load_optimizer_state(self.optimizer, state)


class DynamicWeightAverage(LossWeighting):
    """DWA (Liu et al. 2019), torchjd's: a loss that falls slower than the others gets more weight.

    A loss that is absent in a step counts with its last value.
    """

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names, self.every, self.temperature = tuple(names), settings.dwa_every, settings.dwa_temperature
        self.values = torch.full((len(self.names),), math.nan)
        # The last two periods' means and the running one, kept here so that a stopped run goes on.
        self.history = torch.zeros(0, len(self.names))
        self.seen = torch.zeros(0, len(self.names))
        self._last: dict[str, float] = {}

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """`n softmax(r / T)` with `r` the ratio of the last two periods' mean losses; 1 until there are two."""
        here = [i for i, name in enumerate(self.names) if name in present]
        for i in here:
            self.values[i] = float(present[self.names[i]].detach())
        whole = self._whole()  # (n,)
        if torch.is_grad_enabled() and not self.values.isnan().any():
            self._remember()
        self._last = {f"w_{self.names[i]}": float(whole[i]) for i in here}
        return {self.names[i]: whole[i] for i in here}

    def _whole(self) -> Tensor:
        """All weights (n,), from torchjd's DWA brought to where this run stands."""
        dwa = _torchjd("scalarization").DWA(self.temperature)
        for mean in self.history:
            dwa(mean)
            dwa.step()
        probe = torch.ones(len(self.names), requires_grad=True)  # (n,)
        with torch.enable_grad():
            (weights,) = torch.autograd.grad(dwa(probe), probe)
        return weights  # (n,)

    def _remember(self) -> None:
        self.seen = torch.cat([self.seen, self.values[None].clamp(min=1e-12)])
        if len(self.seen) == self.every:
            self.history = torch.cat([self.history, self.seen.mean(0, keepdim=True)])[-2:]
            self.seen = self.seen[:0]

    def trajectory(self) -> dict[str, float]:
        """`w_NAME` of the losses of the last step."""
        return self._last

    def state(self) -> dict[str, Tensor]:
        """Mean losses of the last periods, and the losses of the running one."""
        return {"values": self.values.clone(), "history": self.history.clone(), "seen": self.seen.clone()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.values, self.history, self.seen = (state[key].clone() for key in ("values", "history", "seen"))


class GradNorm(LossWeighting):
    """GradNorm (Chen et al. 2018, eq. 1, 2): weights that bring each loss's gradient norm to `mean · r_i^α`."""

    reads = "norms"

    def __init__(self, names: Sequence[str], settings: ComparatorSettings = ComparatorSettings()) -> None:
        self.names, self.alpha = tuple(names), settings.gradnorm_alpha
        self.w = nn.Parameter(torch.ones(len(self.names)))
        self.optimizer = torch.optim.Adam([self.w], lr=settings.lr)
        self.first = torch.full((len(self.names),), math.nan)
        self.norms = torch.full((len(self.names),), math.nan)
        self._last: dict[str, float] = {}

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """w_i of the losses present; w takes one step on the way."""
        here = [i for i, name in enumerate(self.names) if name in present]
        if torch.is_grad_enabled():
            for name, norm in seen.norms.items():
                self.observe(name, norm)
            self._learn(here, torch.tensor([float(present[self.names[i]].detach()) for i in here]))
        found = {self.names[i]: self.w.detach()[i].clone() for i in here}
        self._last = {f"w_{name}": float(w) for name, w in found.items()}
        return found

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Keep a loss's gradient norm; one that is not finite is passed over."""
        if math.isfinite(value := float(norm)):
            self.norms[self.names.index(name)] = value

    def _learn(self, here: list[int], values: Tensor) -> None:
        self.first[here] = torch.where(self.first[here].isnan(), values.clamp(min=1e-12), self.first[here])  # (n',)
        if len(here) < 2 or self.norms[here].isnan().any():
            return
        pull = self.w[here] * self.norms[here]  # (n',)
        rate = values / self.first[here]  # (n',)
        wanted = (pull.mean() * (rate / rate.mean().clamp(min=1e-12)) ** self.alpha).detach()  # (n',)
        (pull - wanted).abs().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            self.w.clamp_(min=1e-3)
            self.w.mul_(len(self.names) / self.w.sum())

    def trajectory(self) -> dict[str, float]:
        """`w_NAME` of the losses of the last step."""
        return self._last

    def state(self) -> dict[str, Tensor]:
        """Weights, first losses, last norms, optimizer."""
        found = {"w": self.w.detach().clone(), "first": self.first.clone(), "norms": self.norms.clone()}
        return found | optimizer_state(self.optimizer)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        with torch.no_grad():
            self.w.copy_(state["w"])
        self.first, self.norms = state["first"].clone(), state["norms"].clone()
        load_optimizer_state(self.optimizer, state)


class PCGrad(LossWeighting):
    """PCGrad (Yu et al. 2020), torchjd's: gradients that conflict are projected off each other.

    The projected sum is a weighted sum of the gradients themselves; its weights follow from their inner products where
    they are measured. Measured at a state, conflicts are those at the state.
    """

    reads = "gradients"
    bounded = False

    def __init__(self, names: Sequence[str], seed: int = 0) -> None:
        self.names, self.seed, self.step = tuple(names), seed, 0
        self._last: dict[str, float] = {}

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """c_i of the losses present; 1 where no gradients are given."""
        here = list(present)
        whole = torch.ones(len(here))  # (n',)
        if seen.grads and here:
            stack = torch.stack([seen.grads[name].detach().float().cpu() for name in here])  # (n', P)
            with torch.random.fork_rng(devices=[]):  # its order is random; the loop's own random numbers stay
                torch.manual_seed(self.seed + self.step)
                whole = _torchjd("aggregation").PCGradWeighting()(stack @ stack.T)  # (n',)
            self.step += 1
        self._last = {f"w_{name}": float(c) for name, c in zip(here, whole, strict=True)}
        return dict(zip(here, whole, strict=True))

    def trajectory(self) -> dict[str, float]:
        """`w_NAME` of the losses of the last step."""
        return self._last

    def state(self) -> dict[str, Tensor]:
        """The step, which seeds the order of projections."""
        return {"step": torch.tensor(self.step)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.step = int(state["step"])


def build_weighting(
    kind: WeightingKind,
    names: Sequence[str],
    dao: DAOSettings,
    constants: Mapping[str, float],
    seed: int = 0,
    comparators: ComparatorSettings = ComparatorSettings(),
) -> LossWeighting:
    """The balance of these losses that a setting names."""
    makers: dict[str, Callable[[], LossWeighting]] = {
        "dao": lambda: DAO(names, dao, seed),
        "constant": lambda: ConstantWeighting({name: constants[name] for name in names}),
        "equal": lambda: ConstantWeighting(dict.fromkeys(names, 1.0)),
        "uncertainty": lambda: UncertaintyWeighting(names, comparators),
        "dwa": lambda: DynamicWeightAverage(names, comparators),
        "gradnorm": lambda: GradNorm(names, comparators),
        "pcgrad": lambda: PCGrad(names, seed),
    }
    return makers[kind]()
