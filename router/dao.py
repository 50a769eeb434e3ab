"""Dynamic adaptive optimization (DAO) of n losses (DAO paper eq. 9 to 21), with bounds that give it a minimum."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from router.lookahead import LookAhead
from router.losses import LossWeighting, StepMeasurements, load_optimizer_state, optimizer_state
from router.registry import DAOSettings


def difficulty(norms: Tensor, floor: float = 0.1) -> Tensor:
    """Return λ (n,) of gradient norms (n,): ñ_i⁻¹ / Σ ñ_j⁻¹ with ñ_i = max(n_i, floor · max n); 1/n if all are zero.

    For two losses whose norms differ by a factor of at most 1/floor this is eq. 11.
    """
    largest = norms.max()
    if largest <= 0:
        return torch.full_like(norms, 1.0 / len(norms))
    inverse = 1.0 / (norms / largest).clamp(min=max(floor, 1e-12))  # (n,)
    return inverse / inverse.sum()


class DAO(LossWeighting):
    """Balance n losses by DAO in any training loop.

    Create `dao = DAO(("classes", "polarity"))` once, then call
    `total = dao.combine({"classes": a, "polarity": b}, at=h)` and `total.backward()` in each step. The sum is
    `n² Σ λ_i w_i L_i` (eq. 9); a single loss is used unchanged. With `DAOSettings(objective="validation")`, `combine`
    also needs `lookahead=LookAhead(shared_parameters, held_out_loss)`.
    Under `torch.no_grad()` it weights losses without updating its state. It is always on the CPU, whatever the device
    of the losses.

    Args:
        names: names of the losses.
        settings: bounds and learning rates.
        seed: seed of the weight net's initialization.

    Examples:
        >>> import torch
        >>> from router import DAO
        >>> dao = DAO(("classes", "polarity"))
        >>> h = torch.randn(4, 8, requires_grad=True)  # the state that the losses share, (B, D)
        >>> losses = {"classes": h.square().mean(), "polarity": h.abs().mean()}
        >>> dao.combine(losses, at=h).backward()
        >>> h.grad.shape
        torch.Size([4, 8])
    """

    requires = "norms"

    def __init__(self, names: Sequence[str], settings: DAOSettings = DAOSettings(), seed: int = 0) -> None:
        assert len(set(names)) == len(names) > 0
        self.names, self.settings = tuple(names), settings
        n = len(names)
        floor = settings.weight_floor
        self.net = WeightNet(n, settings.hidden, 0.5 / n if floor is None else min(floor, 1.0 / n), seed)
        self.alpha = nn.Parameter(torch.tensor(settings.alpha), requires_grad=settings.imbalance != "fixed")
        self.beta = nn.Parameter(torch.tensor(settings.beta), requires_grad=settings.imbalance != "fixed")
        self.every = settings.every or (10 if settings.objective == "validation" else 1)
        # An update every k steps is k times as long, so that the distance weights can move depends only on the number
        # of training steps.
        rate = settings.lr * self.every
        self.optimizer = torch.optim.Adam([*self.net.parameters(), self.alpha, self.beta], lr=rate)
        self.norm_averages, self.norm_counts, self.step = torch.zeros(n), torch.zeros(n), 0
        self._imbalance_gradients: list[tuple[str, int, Tensor]] = []  # loss, rows, gradient (2,)
        self._log_values: dict[str, float] = {}

    @property
    def update_due(self) -> bool:
        """Whether this step measures gradients and updates the weight net: one in `every`, starting with the first."""
        return self.step % self.every == 0

    def compute_weights(self, present: Mapping[str, Tensor], measurements: StepMeasurements) -> dict[str, Tensor]:
        """Return `c_i = n² λ_i w_i`, and update the weight net by one optimizer step.

        A loss without a norm in this step uses the average of its previous ones. With the `validation` objective the
        net is updated only if `measurements.lookahead` is given.
        """
        for name, norm in measurements.norms.items():
            if name in present and torch.is_grad_enabled():
                self.observe(name, norm)
        if not present:
            self._imbalance_gradients.clear()
            return {}
        mask = torch.tensor([name in present for name in self.names])  # (n,)
        values = torch.tensor([float(present[n].detach()) if n in present else 0.0 for n in self.names])  # (n,)
        lam = self._difficulty(mask)  # (n,)
        weighted = lam * values  # (n,)
        with torch.autocast("cpu", enabled=False):
            w = self.net(weighted, mask)  # (n,)
        coefficients = len(present) ** 2 * lam * w.detach()  # (n,)
        weights = {name: coefficients[i] for i, name in enumerate(self.names) if name in present}
        if torch.is_grad_enabled():
            objective = None
            if self.update_due:
                objective = self._objective(
                    losses=present,
                    w=w,
                    lam=lam,
                    weighted=weighted,
                    weights=weights,
                    lookahead=measurements.lookahead,
                )
            self._update(objective, lam * w.detach())
            self.step += 1
        self._log_values = {
            f"{symbol}_{name}": float(tensor[i])
            for symbol, tensor in {"lambda": lam, "w": w.detach(), "c": coefficients}.items()
            for i, name in enumerate(self.names)
            if mask[i]
        }
        return weights

    def _objective(
        self,
        losses: Mapping[str, Tensor],
        w: Tensor,
        lam: Tensor,
        weighted: Tensor,
        weights: Mapping[str, Tensor],
        lookahead: LookAhead | None,
    ) -> Tensor | None:
        """Return what the weight net minimizes: the weighted sum (eq. 15), or the held-out loss after a virtual step.

        To first order, loss i lowers the held-out loss by `η w_i λ_i ⟨∇H, ∇L_i⟩`, so w increases that. The inner
        products are divided by the largest, so that the net's Adam gets numbers of the same size in every run.
        A single loss has no objective, since its w is always 1.
        """
        if len(losses) < 2:
            return None
        if self.settings.objective == "sum":
            return (w * weighted).sum()
        alignments = lookahead.alignments(losses, weights, self.settings.virtual_lr) if lookahead else {}
        gain = lam * torch.tensor([alignments.get(name, 0.0) for name in self.names])  # (n,)
        largest = gain.abs().max()
        return -(w * gain / largest).sum() if largest > 0 else None

    def observe(self, name: str, norm: Tensor | float) -> None:
        """Add a gradient norm to the loss's moving average; a norm that is not finite is ignored."""
        value = float(norm)
        if not math.isfinite(value):
            return
        i = self.names.index(name)
        self.norm_averages[i] = self.settings.ema * self.norm_averages[i] + (1.0 - self.settings.ema) * value
        self.norm_counts[i] += 1

    def _difficulty(self, mask: Tensor) -> Tensor:
        """Return λ (n,) of the losses present, from bias-corrected averages; 1/n if one of them has no norm yet."""
        measured = self.norm_counts > 0
        lam = torch.zeros(len(self.names))
        if not measured[mask].all():
            lam[mask] = 1.0 / int(mask.sum())
            return lam
        corrected = self.norm_averages / (1.0 - self.settings.ema ** self.norm_counts.clamp(min=1.0))  # (n,)
        lam[mask] = difficulty(corrected[mask], self.settings.norm_floor)
        return lam

    def _update(self, objective: Tensor | None, scale: Tensor) -> None:
        """Take one Adam step: the weight net with its objective, α and β with the gradients from `imbalance_loss`.

        Adam does not change parameters without a gradient.
        """
        if objective is not None:
            objective.backward()
        self._set_imbalance_gradients(scale)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.settings.imbalance != "fixed":
            with torch.no_grad():
                self.alpha.clamp_(min=0.0)
                self.beta.clamp_(0.0, 1.0)

    def imbalance_loss(self, per_row: Tensor, labels: Tensor, classes: int, name: str = "classes") -> Tensor:
        """Return the imbalance loss with the current α and β; learned α and β are updated by the next `weights`.

        Args:
            per_row: loss of each row (B,).
            labels: class of each row (B,), 0 … K − 1.
            classes: number of classes (K).
            name: the loss that this is a part of; gradients of several parts are averaged by number of rows.
        """
        if self.settings.imbalance != "fixed" and torch.is_grad_enabled():
            gradient = self._imbalance_gradient(per_row.detach().cpu(), labels.cpu(), classes)  # (2,)
            self._imbalance_gradients.append((name, len(labels), gradient))
        return imbalance_loss(per_row, labels, self.alpha.item(), self.beta.item(), classes)

    def _imbalance_gradient(self, per_row: Tensor, labels: Tensor, classes: int) -> Tensor:
        """Return the gradient of the loss without divisor by (α, β); `paper` flips the sign for β, as eq. 17 does."""
        frequency, mean = class_statistics(per_row, labels, classes)
        loss = unnormalized_imbalance_loss(frequency, mean, self.alpha, self.beta)
        grads = torch.autograd.grad(loss, (self.alpha, self.beta))
        return torch.stack([grads[0], -grads[1] if self.settings.imbalance == "paper" else grads[1]])

    def _set_imbalance_gradients(self, scale: Tensor) -> None:
        """Set the gradients of α and β, times λ w (n,) of their loss (eq. 16, 17); non-finite ones are skipped."""
        parts = [
            (rows, scale[self.names.index(name)] * gradient)
            for name, rows, gradient in self._imbalance_gradients
            if name in self.names and gradient.isfinite().all()
        ]
        self._imbalance_gradients.clear()
        if parts:
            mean = torch.stack([rows * part for rows, part in parts]).sum(0) / sum(rows for rows, _ in parts)  # (2,)
            self.alpha.grad, self.beta.grad = mean[0].clone(), mean[1].clone()

    def log_values(self) -> dict[str, float]:
        """Return `lambda_NAME`, `w_NAME` and `c_NAME` of the losses of the last step, `alpha` and `beta`."""
        return self._log_values | {"alpha": self.alpha.item(), "beta": self.beta.item()}

    def state_dict(self) -> dict[str, Tensor]:
        """Return all state that a resumed run needs, as tensors by name."""
        state = {f"net.{key}": value.clone() for key, value in self.net.state_dict().items()}
        state |= {"alpha": self.alpha.detach().clone(), "beta": self.beta.detach().clone()}
        state |= {"average": self.norm_averages.clone(), "seen": self.norm_counts.clone()}
        return state | {"step": torch.tensor(self.step)} | optimizer_state(self.optimizer)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore the state of `state_dict`."""
        self.net.load_state_dict({k.removeprefix("net."): v for k, v in state.items() if k.startswith("net.")})
        self.norm_averages, self.norm_counts = state["average"].clone(), state["seen"].clone()
        self.step = int(state["step"])
        with torch.no_grad():
            self.alpha.copy_(state["alpha"])
            self.beta.copy_(state["beta"])
        load_optimizer_state(self.optimizer, state)


def imbalance_loss(
    per_row: Tensor, labels: Tensor, alpha: Tensor | float, beta: Tensor | float, classes: int
) -> Tensor:
    """Return DAO's imbalance loss (eq. 12 to 14) of a batch, over the classes present in it.

    `Σ_k p_k^(−β) (p_k L_k − α log p_k) / Σ_k p_k^(1−β)`; the divisor makes its scale independent of the number of
    classes.

    Args:
        per_row: loss of each row (B,).
        labels: class of each row (B,), 0 … K − 1.
        alpha: α; its term has no gradient for the model.
        beta: β.
        classes: number of classes (K).
    """
    frequency, mean = class_statistics(per_row, labels, classes)
    return unnormalized_imbalance_loss(frequency, mean, alpha, beta) / frequency.pow(1.0 - beta).sum()


def class_statistics(per_row: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Return the relative frequency p_k (eq. 13) and the mean loss L_k of each class in the batch, (K',) each."""
    counts = torch.bincount(labels, minlength=classes)  # (K,)
    per_row = per_row.float()  # (B,)
    sums = per_row.new_zeros(classes).index_add(0, labels, per_row)  # (K,)
    present = counts > 0
    return counts[present].to(sums.dtype) / len(labels), sums[present] / counts[present]


def unnormalized_imbalance_loss(frequency: Tensor, mean: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
    """Return `Σ_k v_k (p_k L_k − α log p_k)` with `v_k = p_k^(−β)` (eq. 12, 14), without the divisor."""
    return (frequency.pow(-beta) * (frequency * mean - alpha * frequency.log())).sum()


class WeightNet(nn.Module):
    """FC1 – ReLU – FC2 – softmax over the weighted losses (eq. 18 to 21), with a lower bound for every weight.

    Args:
        losses: number of losses (n).
        hidden: width of the hidden layer.
        floor: lower bound of a weight.
        seed: seed of the initialization.
    """

    def __init__(self, losses: int, hidden: int, floor: float, seed: int) -> None:
        super().__init__()
        assert 0 <= floor * losses <= 1 + 1e-9, "the lower bounds may not sum to more than 1"
        self.floor = floor
        # A separate generator leaves the caller's random state unchanged on every device.
        generator = torch.Generator().manual_seed(seed)
        bound = losses**-0.5
        self.first = nn.utils.skip_init(nn.Linear, losses, hidden)
        nn.init.uniform_(self.first.weight, -bound, bound, generator=generator)
        nn.init.uniform_(self.first.bias, -bound, bound, generator=generator)
        self.second = nn.utils.skip_init(nn.Linear, hidden, losses)
        nn.init.zeros_(self.second.weight)  # so that DAO starts with w = 1/n, whatever the scale of the losses
        nn.init.zeros_(self.second.bias)

    def forward(self, weighted: Tensor, present: Tensor) -> Tensor:
        """Return w (n,) for λ_i L_i (n,); a loss that is not present gets 0, and the others sum to 1."""
        logits = self.second(torch.relu(self.first(weighted)))  # (n,)
        free = logits.masked_fill(~present, float("-inf")).softmax(-1)  # (n,)
        count = int(present.sum())
        weights: Tensor = present * self.floor + (1.0 - self.floor * count) * free  # (n,)
        return weights
