"""DAO, dynamic adaptive optimization, for n losses (DAO paper eq. 9 to 21), bounded so that it has a minimum.

It is handed losses and where to measure their gradients; which losses there are is the caller's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

At = Tensor | Sequence[nn.Parameter]


class DAOSettings(BaseModel):
    """DAO's bounds and rates (method 4). The paper leaves width, α and β open."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    ema: float = Field(0.9, ge=0, lt=1, description="memory of the gradient norms; 0 is the paper's, more is calmer")
    norm_floor: float = Field(0.1, ge=0, le=1, description="least norm, as a share of the largest; holds λ from 1")
    weight_floor: float | None = Field(
        None, ge=0, description="least weight w of a loss; 0 is the paper's, none given is 0.5 / n"
    )
    hidden: int = Field(16, ge=1, description="width of the weight net (eq. 19)")
    lr: float = Field(1e-3, gt=0, description="Adam rate of the weight net, and of learned α and β")
    imbalance: Literal["fixed", "learn", "paper"] = Field(
        "fixed", description="α and β stay, follow their true gradients, or eq. 16 and 17 as printed; all bounded"
    )
    alpha: float = Field(0.0, ge=0, description="α of eq. 14; it has no gradient for the model")
    beta: float = Field(0.5, ge=0, le=1, description="β of eq. 12: 0 weighs rows alike, 1 classes alike")
    relative_bounds: tuple[float, float] = Field(
        (0.02, 2.0), description="bounds of the routing losses' weights, sentiment's being 1"
    )


def difficulty(norms: Tensor, floor: float = 0.1) -> Tensor:
    """λ (n,) of gradient norms (n,): ñ_i⁻¹ / Σ ñ_j⁻¹ with ñ_i = max(n_i, floor · max n); 1/n if all are zero.

    For two losses whose norms are within 1/floor of each other this is eq. 11.
    """
    largest = norms.max()
    if largest <= 0:
        return torch.full_like(norms, 1.0 / len(norms))
    raised = torch.maximum(norms, floor * largest).clamp(min=torch.finfo(norms.dtype).tiny)  # (n,)
    inverse = largest / raised  # (n,)
    return inverse / inverse.sum()


def imbalance_loss(
    per_row: Tensor, labels: Tensor, alpha: Tensor | float, beta: Tensor | float, classes: int
) -> Tensor:
    """DAO's imbalance loss (eq. 12 to 14) of one batch, over the classes present in it.

    `Σ_k p_k^(−β) (p_k L_k − α log p_k) / Σ_k p_k^(1−β)`; the divisor keeps the number of classes out of its scale.

    Args:
        per_row: loss of each row (B,).
        labels: class of each row (B,), 0 … K − 1.
        alpha: α; it moves no gradient of the model.
        beta: β.
        classes: K.
    """
    share, mean = class_shares(per_row, labels, classes)
    return imbalance_sum(share, mean, alpha, beta) / share.pow(1.0 - beta).sum()


def class_shares(per_row: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Share p_k of the batch (eq. 13) and mean loss L_k of each class present, (K',) each."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    sums = per_row.new_zeros(classes).index_add(0, labels, per_row)  # (K,)
    here = counts > 0
    return counts[here].to(per_row.dtype) / len(labels), sums[here] / counts[here]


def imbalance_sum(share: Tensor, mean: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """`Σ_k v_k (p_k L_k − α log p_k)` with `v_k = p_k^(−β)` (eq. 12, 14), not divided."""
    return (share.pow(-beta) * (share * mean - alpha * share.log())).sum()


class WeightNet(nn.Module):
    """FC1 – ReLU – FC2 – softmax over the weighed losses (eq. 18 to 21), with a floor under every weight."""

    def __init__(self, losses: int, hidden: int, floor: float) -> None:
        super().__init__()
        assert 0 <= floor * losses <= 1, "the floors may not exceed the whole"
        self.floor = floor
        self.first, self.second = nn.Linear(losses, hidden), nn.Linear(hidden, losses)

    def forward(self, weighed: Tensor, present: Tensor) -> Tensor:
        """w (n,) of [λ_i L_i] (n,); a loss that is not present gets 0 and the others share the whole."""
        logits = self.second(torch.relu(self.first(weighed)))  # (n,)
        free = logits.masked_fill(~present, float("-inf")).softmax(-1)  # (n,)
        count = int(present.sum())
        return present * self.floor + (1.0 - self.floor * count) * free  # (n,)


class DAO:
    """Balance n losses by DAO in any training loop.

    `dao = DAO(("classes", "polarity"))` once, then each step
    `total = dao.combine({"classes": a, "polarity": b}, at=h)` and `total.backward()`.

    Args:
        names: of the losses.
        settings: bounds and rates.
        seed: of the weight net's start.
    """

    def __init__(self, names: Sequence[str], settings: DAOSettings = DAOSettings(), seed: int = 0) -> None:
        assert len(set(names)) == len(names) > 0
        self.names, self.settings = tuple(names), settings
        n = len(names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            floor = settings.weight_floor
            self.net = WeightNet(n, settings.hidden, 0.5 / n if floor is None else min(floor, 1.0 / n))
        self.alpha = nn.Parameter(torch.tensor(settings.alpha), requires_grad=settings.imbalance != "fixed")
        self.beta = nn.Parameter(torch.tensor(settings.beta), requires_grad=settings.imbalance != "fixed")
        self.optimizer = torch.optim.Adam([*self.net.parameters(), self.alpha, self.beta], lr=settings.lr)
        self.average, self.seen = torch.zeros(n), torch.zeros(n)
        self._last: dict[str, float] = {}

    def combine(
        self, losses: Mapping[str, Tensor | None], at: At | None = None, rows: Mapping[str, int] | None = None
    ) -> Tensor:
        """`n² Σ λ_i w_i L_i` (eq. 9) over the losses that are present and finite; one alone is used as it is.

        Args:
            losses: scalars by name; None or not there means absent.
            at: the shared state (B, D) where gradients are measured, or the shared parameters (the paper's measure).
            rows: B_i, the rows that carry each loss; B by default.
        """
        present = usable(losses)
        if not present:
            return torch.zeros(())
        norms = None if at is None else measure(present, at, rows or {})
        weights = self.weights(present, norms)
        return torch.stack([weights[name].to(loss.device) * loss for name, loss in present.items()]).sum()

    def weights(
        self, losses: Mapping[str, Tensor | None], norms: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """`c_i = n² λ_i w_i` of the losses present, detached; the weight net takes one step on the way.

        Args:
            losses: scalars by name.
            norms: gradient norms of this step; where one is missing its average up to the step before is used.
        """
        present = usable(losses)
        for name, norm in (norms or {}).items():
            if name in present:
                self.observe(name, norm)
        if not present:
            return {}
        here = torch.tensor([name in present for name in self.names])  # (n,)
        values = torch.tensor([float(present[n].detach()) if n in present else 0.0 for n in self.names])  # (n,)
        lam = self._difficulty(here)  # (n,)
        weighed = lam * values  # (n,)
        w = self.net(weighed, here)  # (n,)
        self._learn((w * weighed).sum())
        self._note(lam, w.detach())
        count = int(here.sum())
        whole = count**2 * lam * w.detach()  # (n,)
        return {name: whole[i] for i, name in enumerate(self.names) if name in present}

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Take a gradient norm into its average; one that is not finite is passed over."""
        value = float(norm)
        if not torch.isfinite(torch.tensor(value)):
            return
        i = self.names.index(name)
        self.average[i] = self.settings.ema * self.average[i] + (1.0 - self.settings.ema) * value
        self.seen[i] += 1

    def _difficulty(self, here: Tensor) -> Tensor:
        """λ (n,) of the losses present, from bias-corrected averages; 1/n while any was never measured."""
        known = self.seen > 0
        lam = torch.zeros(len(self.names))
        if not known[here].all():
            lam[here] = 1.0 / int(here.sum())
            return lam
        corrected = self.average / (1.0 - self.settings.ema ** self.seen.clamp(min=1.0))  # (n,)
        lam[here] = difficulty(corrected[here], self.settings.norm_floor)
        return lam

    def _learn(self, objective: Tensor) -> None:
        """One Adam step: the weight net lowers the weighed sum, α and β what `imbalance` left for them."""
        objective.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.settings.imbalance != "fixed":
            with torch.no_grad():
                self.alpha.clamp_(min=0.0)
                self.beta.clamp_(0.0, 1.0)

    def imbalance(self, per_row: Tensor, labels: Tensor, classes: int) -> Tensor:
        """`imbalance_loss` under the α and β in force; where they learn, their gradients wait for the next step."""
        if self.settings.imbalance == "fixed":
            return imbalance_loss(per_row, labels, self.settings.alpha, self.settings.beta, classes)
        self._imbalance_gradients(per_row.detach().cpu(), labels.cpu(), classes)
        return imbalance_loss(per_row, labels, float(self.alpha), float(self.beta), classes)

    def _imbalance_gradients(self, per_row: Tensor, labels: Tensor, classes: int) -> None:
        """True gradients of the undivided sum; `paper` turns β's round, as eq. 17 is printed."""
        share, mean = class_shares(per_row, labels, classes)
        with torch.enable_grad():
            grads = torch.autograd.grad(imbalance_sum(share, mean, self.alpha, self.beta), (self.alpha, self.beta))
        sign = -1.0 if self.settings.imbalance == "paper" else 1.0
        for parameter, grad in zip((self.alpha, self.beta), (grads[0], sign * grads[1]), strict=True):
            parameter.grad = grad if parameter.grad is None else parameter.grad + grad

    def relative(self, weights: Mapping[str, Tensor], to: str) -> dict[str, Tensor]:
        """Weights in units of one loss's own, c_i / c_to, the others held within `relative_bounds`."""
        low, high = self.settings.relative_bounds
        unit = weights[to].clamp(min=1e-12)
        return {name: c / unit if name == to else (c / unit).clamp(low, high) for name, c in weights.items()}

    def _note(self, lam: Tensor, w: Tensor) -> None:
        pairs = zip(self.names, lam.tolist(), w.tolist(), strict=True)
        self._last = {f"{letter}_{name}": value for name, a, b in pairs for letter, value in (("lambda", a), ("w", b))}

    def trajectory(self) -> dict[str, float]:
        """λ and w of the last step, and α and β, for logs."""
        return self._last | {"alpha": float(self.alpha), "beta": float(self.beta)}

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as tensors by name."""
        found = {f"net.{key}": value.clone() for key, value in self.net.state_dict().items()}
        found |= {"alpha": self.alpha.detach().clone(), "beta": self.beta.detach().clone()}
        found |= {"average": self.average.clone(), "seen": self.seen.clone()}
        for i, moments in self.optimizer.state_dict()["state"].items():
            found |= {f"adam.{i}.{key}": torch.as_tensor(value).clone() for key, value in moments.items()}
        return found

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        self.average, self.seen = state["average"].clone(), state["seen"].clone()
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            self.beta.copy_(state["beta"])
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in state.items():
            if key.startswith("adam."):
                _, i, name = key.split(".")
                moments.setdefault(int(i), {})[name] = value.clone()
        whole = self.optimizer.state_dict()
        self.optimizer.load_state_dict({"state": moments, "param_groups": whole["param_groups"]})


class Constant:
    """Constant weights behind DAO's own surface, so that no training loop has to ask which of the two it has.

    Args:
        weights: by loss (eq. 8).
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        self.constants = dict(weights)

    def combine(
        self, losses: Mapping[str, Tensor | None], at: At | None = None, rows: Mapping[str, int] | None = None
    ) -> Tensor:
        """`Σ w_i L_i` over the losses that are present and finite."""
        present = usable(losses)
        if not present:
            return torch.zeros(())
        return torch.stack([self.constants[name] * loss for name, loss in present.items()]).sum()

    def weights(
        self, losses: Mapping[str, Tensor | None], norms: Mapping[str, Tensor] | None = None
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


def make_weighting(
    kind: Literal["dao", "constant"],
    names: Sequence[str],
    settings: DAOSettings,
    constants: Mapping[str, float],
    seed: int = 0,
) -> DAO | Constant:
    """DAO or constants over these losses."""
    return DAO(names, settings, seed) if kind == "dao" else Constant({name: constants[name] for name in names})


def usable(losses: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """The losses that are there and finite."""
    return {name: loss for name, loss in losses.items() if loss is not None and bool(torch.isfinite(loss.detach()))}


def measure(losses: Mapping[str, Tensor], at: At, rows: Mapping[str, int]) -> dict[str, Tensor]:
    """Gradient norm of each loss where they all meet (eq. 10).

    At a state (B, D): `√B_i · ‖∂L_i/∂h‖_F`, so that a loss on few rows is not taken for an easy one.
    At parameters: the L2 norm over all of them, the paper's measure.
    """
    if isinstance(at, Tensor):
        return {name: _norm(loss, [at]) * rows.get(name, len(at)) ** 0.5 for name, loss in losses.items()}
    return {name: _norm(loss, list(at)) for name, loss in losses.items()}


def _norm(loss: Tensor, at: Iterable[Tensor]) -> Tensor:
    places = [one for one in at if one.requires_grad]
    if not loss.requires_grad or not places:
        return loss.new_zeros(())
    grads = torch.autograd.grad(loss, places, retain_graph=True, allow_unused=True)
    norms = [grad.norm() for grad in grads if grad is not None]
    return torch.stack(norms).norm() if norms else loss.new_zeros(())
