"""DAO, dynamic adaptive optimization, for n losses (DAO paper eq. 9 to 21), bounded so that it has a minimum.

It is handed losses; which losses there are is the caller's, where they are measured and summed
`router.loss_weighting`'s.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

from router.class_imbalance import class_statistics, imbalance_loss, unnormalized_imbalance_loss
from router.lookahead import LookAhead
from router.loss_weighting import LossWeighting, StepMeasurements, load_optimizer_state, optimizer_state


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
    every: int | None = Field(
        None,
        ge=1,
        description="steps from one measurement to the next; none given is 1, for `validation` 10",
    )
    objective: Literal["sum", "validation"] = Field(
        "sum",
        description="the weight net lowers the weighed sum (the paper's), or a held-out loss after a virtual step",
    )
    virtual_lr: float = Field(1e-3, gt=0, description="length of that virtual step, as of an Adam's rate")
    imbalance: Literal["fixed", "learn", "paper"] = Field(
        "fixed", description="α and β stay, follow their true gradients, or eq. 16 and 17 as printed; all bounded"
    )
    alpha: float = Field(0.0, ge=0, description="α of eq. 14; it has no gradient for the model")
    beta: float = Field(0.5, ge=0, le=1, description="β of eq. 12: 0 weighs rows alike, 1 classes alike")
    relative_bounds: tuple[float, float] = Field(
        (0.02, 2.0), description="bounds of the routing losses' weights, sentiment's being 1"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        low, high = self.relative_bounds
        if not 0 <= low <= high < math.inf:
            raise ValueError("relative_bounds must rise, from 0 or more")
        return self


def difficulty(norms: Tensor, floor: float = 0.1) -> Tensor:
    """λ (n,) of gradient norms (n,): ñ_i⁻¹ / Σ ñ_j⁻¹ with ñ_i = max(n_i, floor · max n); 1/n if all are zero.

    For two losses whose norms are within 1/floor of each other this is eq. 11.
    """
    largest = norms.max()
    if largest <= 0:
        return torch.full_like(norms, 1.0 / len(norms))
    inverse = 1.0 / (norms / largest).clamp(min=max(floor, 1e-12))  # (n,)
    return inverse / inverse.sum()


class DAO(LossWeighting):
    """Balance n losses by DAO in any training loop.

    `dao = DAO(("classes", "polarity"))` once, then each step
    `total = dao.combine({"classes": a, "polarity": b}, at=h)` and `total.backward()`; the sum is
    `n² Σ λ_i w_i L_i` (eq. 9), one loss alone is used as it is. With `DAOSettings(objective="validation")` it is also
    told `look=LookAhead(shared_parameters, held_out)`.
    Under `torch.no_grad()` it weighs as it stands and learns nothing. It lives on the CPU whatever the losses' device.

    Args:
        names: of the losses.
        settings: bounds and rates.
        seed: of the weight net's start.
    """

    reads = "norms"

    def __init__(self, names: Sequence[str], settings: DAOSettings = DAOSettings(), seed: int = 0) -> None:
        assert len(set(names)) == len(names) > 0
        self.names, self.settings = tuple(names), settings
        n = len(names)
        floor = settings.weight_floor
        self.net = WeightNet(n, settings.hidden, 0.5 / n if floor is None else min(floor, 1.0 / n), seed)
        self.alpha = nn.Parameter(torch.tensor(settings.alpha), requires_grad=settings.imbalance != "fixed")
        self.beta = nn.Parameter(torch.tensor(settings.beta), requires_grad=settings.imbalance != "fixed")
        self.every = settings.every or (10 if settings.objective == "validation" else 1)
        # A lesson that comes every k steps is as long as k: how far weights may go hangs on the run's length alone.
        rate = settings.lr * self.every
        self.optimizer = torch.optim.Adam([*self.net.parameters(), self.alpha, self.beta], lr=rate)
        self.average, self.seen, self.step = torch.zeros(n), torch.zeros(n), 0
        self._waiting: list[tuple[str, int, Tensor]] = []
        self._last: dict[str, float] = {}

    @property
    def due(self) -> bool:
        """Whether this step measures and learns: one in `every`, the first included."""
        return self.step % self.every == 0

    def weigh(self, present: Mapping[str, Tensor], seen: StepMeasurements) -> dict[str, Tensor]:
        """`c_i = n² λ_i w_i`; the weight net takes one step on the way.

        Where a norm is missing its average up to the step before is used. Under the `validation` objective the net
        learns only with `look`.
        """
        for name, norm in seen.norms.items():
            if name in present and torch.is_grad_enabled():
                self.observe(name, norm)
        if not present:
            self._waiting.clear()
            return {}
        here = torch.tensor([name in present for name in self.names])  # (n,)
        values = torch.tensor([float(present[n].detach()) if n in present else 0.0 for n in self.names])  # (n,)
        lam = self._difficulty(here)  # (n,)
        weighed = lam * values  # (n,)
        with torch.autocast("cpu", enabled=False):
            w = self.net(weighed, here)  # (n,)
        whole = len(present) ** 2 * lam * w.detach()  # (n,)
        found = {name: whole[i] for i, name in enumerate(self.names) if name in present}
        if torch.is_grad_enabled():
            objective = self._objective(present, w, lam, weighed, found, seen.look) if self.due else None
            self._learn(objective, lam * w.detach())
            self.step += 1
        self._note(here, {"lambda": lam, "w": w.detach(), "c": whole})
        return found

    def _objective(
        self,
        present: Mapping[str, Tensor],
        w: Tensor,
        lam: Tensor,
        weighed: Tensor,
        weights: Mapping[str, Tensor],
        look: LookAhead | None,
    ) -> Tensor | None:
        """What the weight net lowers: the weighed sum (eq. 15), or the held-out loss after a virtual step.

        To first order the held-out loss falls by `η w_i λ_i ⟨∇H, ∇L_i⟩` through loss i, so that is what w raises. The
        inner products are divided by their largest, so that the net's Adam sees numbers of one size in every run.
        A loss on its own has w = 1 whatever the net says.
        """
        if len(present) < 2:
            return None
        if self.settings.objective == "sum":
            return (w * weighed).sum()
        helps = look.helps(present, weights, self.settings.virtual_lr) if look else {}
        gain = lam * torch.tensor([helps.get(name, 0.0) for name in self.names])  # (n,)
        largest = gain.abs().max()
        return -(w * gain / largest).sum() if largest > 0 else None

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Take a gradient norm into its average; one that is not finite is passed over."""
        value = float(norm)
        if not math.isfinite(value):
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

    def _learn(self, objective: Tensor | None, scale: Tensor) -> None:
        """One Adam step: the weight net lowers its objective, α and β what `imbalance` left for them.

        Without a gradient Adam leaves the net alone.
        """
        if objective is not None:
            objective.backward()
        self._take_waiting(scale)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.settings.imbalance != "fixed":
            with torch.no_grad():
                self.alpha.clamp_(min=0.0)
                self.beta.clamp_(0.0, 1.0)

    def imbalance(self, per_row: Tensor, labels: Tensor, classes: int, name: str = "classes") -> Tensor:
        """`imbalance_loss` under the α and β in force; where they learn, their gradients wait for the next `weights`.

        Args:
            per_row: loss of each row (B,).
            labels: class of each row (B,), 0 … K − 1.
            classes: K.
            name: the loss that this is a part of; heads are averaged by rows.
        """
        if self.settings.imbalance != "fixed" and torch.is_grad_enabled():
            gradient = self._imbalance_gradient(per_row.detach().cpu(), labels.cpu(), classes)  # (2,)
            self._waiting.append((name, len(labels), gradient))
        return imbalance_loss(per_row, labels, self.alpha.item(), self.beta.item(), classes)

    def _imbalance_gradient(self, per_row: Tensor, labels: Tensor, classes: int) -> Tensor:
        """True gradient of the undivided sum to (α, β); `paper` turns β's round, as eq. 17 is printed."""
        share, mean = class_statistics(per_row, labels, classes)
        grads = torch.autograd.grad(
            unnormalized_imbalance_loss(share, mean, self.alpha, self.beta), (self.alpha, self.beta)
        )
        return torch.stack([grads[0], -grads[1] if self.settings.imbalance == "paper" else grads[1]])

    def _take_waiting(self, scale: Tensor) -> None:
        """Hand α and β their gradients times λ w (n,) of their loss (eq. 16, 17); a skipped loss leaves none."""
        parts = [
            (rows, scale[self.names.index(name)] * gradient)
            for name, rows, gradient in self._waiting
            if name in self.names and gradient.isfinite().all()
        ]
        self._waiting.clear()
        if parts:
            mean = torch.stack([rows * part for rows, part in parts]).sum(0) / sum(rows for rows, _ in parts)  # (2,)
            self.alpha.grad, self.beta.grad = mean[0].clone(), mean[1].clone()

    def _note(self, here: Tensor, found: Mapping[str, Tensor]) -> None:
        self._last = {
            f"{letter}_{name}": float(values[i])
            for letter, values in found.items()
            for i, name in enumerate(self.names)
            if here[i]
        }

    def trajectory(self) -> dict[str, float]:
        """`lambda_NAME`, `w_NAME`, `c_NAME` of the losses of the last step, and `alpha`, `beta`, for logs."""
        return self._last | {"alpha": self.alpha.item(), "beta": self.beta.item()}

    def state(self) -> dict[str, Tensor]:
        """All that a resumed run needs, as tensors by name."""
        found = {f"net.{key}": value.clone() for key, value in self.net.state_dict().items()}
        found |= {"alpha": self.alpha.detach().clone(), "beta": self.beta.detach().clone()}
        found |= {"average": self.average.clone(), "seen": self.seen.clone(), "step": torch.tensor(self.step)}
        return found | optimizer_state(self.optimizer)

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        self.average, self.seen = state["average"].clone(), state["seen"].clone()
        self.step = int(state["step"])
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            self.beta.copy_(state["beta"])
        load_optimizer_state(self.optimizer, state)


class WeightNet(nn.Module):
    """FC1 – ReLU – FC2 – softmax over the weighed losses (eq. 18 to 21), with a floor under every weight."""

    def __init__(self, losses: int, hidden: int, floor: float, seed: int) -> None:
        super().__init__()
        assert 0 <= floor * losses <= 1 + 1e-9, "the floors may not exceed the whole"
        self.floor = floor
        # A generator of its own: somebody else's loop keeps its random numbers, on every device.
        own = torch.Generator().manual_seed(seed)
        bound = losses**-0.5
        self.first = nn.utils.skip_init(nn.Linear, losses, hidden)
        nn.init.uniform_(self.first.weight, -bound, bound, generator=own)
        nn.init.uniform_(self.first.bias, -bound, bound, generator=own)
        self.second = nn.utils.skip_init(nn.Linear, hidden, losses)
        nn.init.zeros_(self.second.weight)  # zeros, so that DAO starts from w = 1/n whatever the losses' scale
        nn.init.zeros_(self.second.bias)

    def forward(self, weighed: Tensor, present: Tensor) -> Tensor:
        """w (n,) of [λ_i L_i] (n,); a loss that is not present gets 0 and the others share the whole."""
        logits = self.second(torch.relu(self.first(weighed)))  # (n,)
        free = logits.masked_fill(~present, float("-inf")).softmax(-1)  # (n,)
        count = int(present.sum())
        return present * self.floor + (1.0 - self.floor * count) * free  # (n,)
