"""Where a router starts without training: from statistics of each domain's states, or from the experts' own weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PriorKind = Literal["random", "centroid", "arrow", "phatgoose"]
COMPONENTS = 64
"""Most directions of a state prototype that have a variance of their own."""
EXPERT_GATE = "gate"
"""Name of an expert's own gate among the tensors of its folder."""
NEVER = torch.finfo(torch.float32).max
"""Threshold above which no text lies."""


@dataclass(frozen=True)
class StatePrototype:
    """Distribution of one domain's text summaries: a mean, and a covariance shrunken to probabilistic PCA.

    Args:
        mean: (D,).
        directions: unit vectors (K, D).
        variances: (K,), along the directions.
        noise: (), variance in every other direction.
        rows: (), number of texts that it was fitted on.
    """

    mean: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor
    rows: Tensor

    def padded(self) -> "StatePrototype":
        """Return it with `COMPONENTS` directions, or D if that is less; the added ones are zero and change nothing."""
        missing = min(COMPONENTS, self.mean.shape[0]) - len(self.variances)
        directions, variances = F.pad(self.directions, (0, 0, 0, missing)), F.pad(self.variances, (0, missing))
        return StatePrototype(self.mean, directions, variances, self.noise, self.rows)


class RouterPrior(nn.Module):
    """One score per text and expert, added to the router's logits; trained with the router from its start on.

    - `centroid`: discriminant of each domain's mean state under the domains' pooled covariance (LDA).
    - `arrow`: mean over tokens of |v · x|, v the first right singular vector of the expert's update (Ostapenko et al.
      2024).
    - `phatgoose`: product of the standardized gate that was trained with the expert and the mean standardized state
      (Muqeeth et al. 2024).

    Args:
        dim: width of the trunk's states (D).
        experts: number of experts (E).
        kind: how a text's score is computed.
    """

    def __init__(self, dim: int, experts: int, kind: PriorKind) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.zeros(experts, dim))
        self.bias = nn.Parameter(torch.zeros(experts))
        self.prototypes = PrototypeSet(dim, experts) if kind == "centroid" else None

    def forward(self, mean: Tensor, states: Tensor, count: Tensor) -> Tensor:
        """Return the scores (B, E).

        Args:
            mean: mean normalized states (B, D).
            states: normalized states (B, T, D), zeros outside the text.
            count: tokens of each text (B, 1).
        """
        if self.kind == "arrow":
            return F.linear(states, self.weight).abs().sum(1) / count.clamp(min=1) + self.bias  # (B, E)
        return F.linear(mean, self.weight, self.bias)  # (B, E)

    @torch.no_grad()
    def set_row(self, expert: int, weight: Tensor, bias: Tensor | float = 0.0) -> None:
        """Set the weight (D,) and bias () of one expert."""
        self.weight[expert] = weight.to(self.weight)
        self.bias[expert] = bias

    @torch.no_grad()
    def transfer(self, old: "RouterPrior", columns: Sequence[int | None]) -> None:
        """Copy the rows of the experts that remain; a new expert's row is the mean of them.

        Without one of its experts, a centroid prior is fitted again to the prototypes of the others; with the same
        experts, prototypes and threshold are copied.

        Args:
            old: the prior to copy from, of the same kind.
            columns: for each expert its row in the old prior; None for a new expert.
        """
        known = [column for column in columns if column is not None]
        for expert, column in enumerate(columns):
            rows = known if column is None else [column]
            self.set_row(expert, old.weight[rows].mean(0), old.bias[rows].mean())
        if self.prototypes is None or old.prototypes is None or len(known) < len(columns):
            return
        if list(columns) == list(range(len(old.weight))):
            self.prototypes.load_state_dict(old.prototypes.state_dict())
        else:
            self.refit([old.prototypes.prototype(column) for column in known], old, columns)

    @torch.no_grad()
    def refit(self, prototypes: Sequence[StatePrototype], old: "RouterPrior", columns: Sequence[int | None]) -> None:
        """Fit a centroid prior to the prototypes of other experts than before; what training changed is kept.

        The discriminants of all experts depend on all prototypes. What was learned since is the difference between an
        expert's row and its discriminant, and is added to its new one. The threshold depends on all prototypes, too, so
        that no text is unfamiliar until it is fitted again.

        Args:
            prototypes: one per expert.
            old: the prior before.
            columns: for each expert its row in the old prior; None for a new expert.
        """
        assert self.prototypes is not None
        assert old.prototypes is not None
        self.fit(prototypes)
        for expert, column in enumerate(columns):
            if column is not None:
                self.weight[expert] += old.weight[column] - old.prototypes.weight[column]
                self.bias[expert] += old.bias[column] - old.prototypes.bias[column]
        self.prototypes.threshold.fill_(NEVER)

    @torch.no_grad()
    def fit(self, prototypes: Sequence[StatePrototype]) -> None:
        """Start a centroid prior from one prototype per expert."""
        assert self.prototypes is not None
        self.prototypes.fill(prototypes)
        self.weight.copy_(self.prototypes.weight)
        self.bias.copy_(self.prototypes.bias)


class PrototypeSet(nn.Module):
    """The prototypes of a mixture's experts, and how far a text is from the nearest of them. Nothing here is trained.

    The distance is the relative Mahalanobis distance (Ren et al. 2021): the squared distance from the nearest mean
    under the pooled covariance of the domains, minus that from the mean of all under the covariance of all. The
    difference cancels what is unusual about a text in every domain alike, its length above all.

    Args:
        dim: width of the trunk's states (D).
        experts: number of experts (E).
    """

    means: Tensor
    directions: Tensor
    variances: Tensor
    noise: Tensor
    rows: Tensor
    weight: Tensor
    bias: Tensor
    spread_weight: Tensor
    spread_bias: Tensor
    threshold: Tensor

    def __init__(self, dim: int, experts: int) -> None:
        super().__init__()
        components = min(COMPONENTS, dim)
        shapes = {
            "means": (experts, dim),
            "directions": (experts, components, dim),
            "variances": (experts, components),
            "noise": (experts,),
            "rows": (experts,),
            "weight": (experts, dim),
            "bias": (experts,),
            "spread_weight": (experts, dim),
            "spread_bias": (experts,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))
        self.register_buffer("threshold", torch.tensor(NEVER))

    def distance(self, mean: Tensor) -> Tensor:
        """Return the relative Mahalanobis distance of mean normalized states (B, D), (B,)."""
        spread = F.linear(mean, self.spread_weight, self.spread_bias).square().sum(-1)  # (B,)
        nearest: Tensor = F.linear(mean, self.weight, self.bias).amax(-1)  # (B,)
        return spread - 2 * nearest

    def fill(self, prototypes: Sequence[StatePrototype]) -> None:
        """Set the prototypes, one per expert, and what is computed from them; the threshold is unchanged."""
        for expert, prototype in enumerate(prototypes):
            padded = prototype.padded()
            self.means[expert], self.directions[expert] = padded.mean, padded.directions
            self.variances[expert], self.noise[expert], self.rows[expert] = padded.variances, padded.noise, padded.rows
        weight, bias = self.discriminants(self.means)
        self.weight.copy_(weight)
        self.bias.copy_(bias)
        experts = len(self.means)
        offsets = (self.means - self.means.mean(0)).double().cpu() / experts**0.5  # (E, D), between domains
        along = offsets @ self._precision()  # (E, D)
        inner = torch.eye(experts, dtype=torch.float64) + along @ offsets.T  # (E, E), of Woodbury's identity
        spread = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), along, upper=False)  # (E, D)
        self.spread_weight.copy_(spread)
        self.spread_bias.copy_(-spread @ self.means.double().cpu().mean(0))

    def prototype(self, expert: int) -> StatePrototype:
        """Return the prototype of one expert."""
        parts = self.means, self.directions, self.variances, self.noise, self.rows
        return StatePrototype(*(part[expert] for part in parts))

    def discriminants(self, means: Tensor) -> tuple[Tensor, Tensor]:
        """Return weights (N, D) and biases (N,) of the discriminants of means (N, D) under these prototypes.

        A score is the log-density of a text at the mean less that at the mean of all prototypes.
        """
        centre = self.means.double().cpu().mean(0)  # (D,)
        offsets = means.double().cpu() - centre  # (N, D)
        weight: Tensor = offsets @ self._precision()  # (N, D)
        return weight, -weight @ centre - 0.5 * (weight * offsets).sum(1)

    def _precision(self) -> Tensor:
        """Inverse of the covariance inside the domains, weighted by their rows, (D, D) in fp64 on the CPU."""
        directions, noise = self.directions.double().cpu(), self.noise.double().cpu()  # (E, K, D), (E,)
        above = (self.variances.double().cpu() - noise[:, None]).clamp(min=0)  # (E, K)
        weights = self.rows.double().cpu() / self.rows.double().cpu().sum()  # (E,)
        covariance = torch.einsum("e,ekd,ek,ekf->df", weights, directions, above, directions)  # (D, D)
        noise_floor: Tensor = (weights * noise).sum()
        return (covariance + noise_floor * torch.eye(len(covariance), dtype=torch.float64)).inverse()


def mute_gates(gates: Tensor, muted: Tensor, allowed: Tensor | None) -> Tensor:
    """Set the gates (B, E) of muted texts (B,) to 0, except where a text is restricted to some experts (B, E)."""
    muted = muted if allowed is None else muted & allowed.all(-1)  # (B,)
    return gates.masked_fill(muted[:, None], 0.0)  # (B, E)


def arrow_direction(updates: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """Return the first right singular vector (D,) of updates that read the same state, stacked: [B_1 A_1; B_2 A_2 …].

    Args:
        updates: A (R, D) and B (D', R) of each, B with its scaling.
    """
    a = torch.cat([a.double().cpu() for a, _ in updates])  # (R, D), R the sum of the ranks
    inner = torch.block_diag(*((b.double().T @ b.double()).cpu() for _, b in updates))  # (R, R), Bᵀ B
    q, r = torch.linalg.qr(a.T)  # (D, R), (R, R): the product is decomposed in the small space of A's rows
    _, vectors = torch.linalg.eigh(r @ inner @ r.T)
    direction: Tensor = q @ vectors[:, -1]  # (D,)
    return direction


def standardized(gate: Tensor) -> Tensor:
    """Return a PHATGOOSE gate (D,) with mean 0 and variance 1, divided by √D."""
    centered = gate.float() - gate.float().mean()  # (D,)
    unit: Tensor = centered / centered.norm().clamp(min=torch.finfo(torch.float32).tiny)
    return unit
