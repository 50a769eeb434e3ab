"""Trunk summary (B, D) → gates (B, E): soft, hard (straight-through), team, top-k, fixed; learned temperature.

It knows experts by their role names only; what the gates are applied to is not its concern.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F


class GateSettings(BaseModel):
    """How the router decides (FinTeamExperts eq. 1 to 4, FinSA-MoE's router)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["soft", "hard", "team", "fixed"] = Field(
        "soft", description="each expert its own group, all in one, groups by role, or constant gates"
    )
    unit: Literal["text", "token"] = Field(
        "text", description="what is routed: a text as a whole, or each token by its own state (language models only)"
    )
    hidden: int = Field(64, ge=0, description="width of the hidden layer; 0 is the papers' single matrix")
    queries: int = Field(
        0, ge=0, description="learned attentions over the text's tokens, read beside their mean; 0 is the mean alone"
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="share of the hidden layer dropped in training")
    top_k: int | None = Field(None, ge=1, description="keep this many experts a text and renormalise; none keeps all")
    temperature: float = Field(1.0, gt=0, description="starting temperature; more blends experts more evenly")
    min_temperature: float = Field(0.1, gt=0, description="the learned temperature never falls below this")
    init_std: float = Field(0.02, gt=0, description="spread of the fresh expert rows of the last layer")
    fixed: tuple[float, ...] | None = Field(
        None, description="weights of kind `fixed`, one an expert, scaled to sum 1; none means alike"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.temperature < self.min_temperature:
            raise ValueError("temperature starts below min_temperature: raise it")
        if self.unit == "token" and self.queries:
            raise ValueError(f"a token is routed by its own state, not by {self.queries} queries: drop them")
        if self.fixed is not None and self.kind != "fixed":
            raise ValueError(f"fixed weights are read by kind `fixed` only, not by `{self.kind}`: drop them")
        if self.fixed is not None and not (min(self.fixed, default=0.0) >= 0 < sum(self.fixed) < math.inf):
            raise ValueError("fixed weights must be 0 or more, and not all 0")
        return self


@dataclass(frozen=True)
class GateOutput:
    """What the experts are blended by, and the soft probabilities behind it; (B, E) or (B, T, E), each row sums to 1.

    Args:
        gates: straight-through: forward hard inside a group, backward soft.
        dense: soft throughout, for losses and reports.
    """

    gates: Tensor
    dense: Tensor


def mean_summary(states: Tensor, mask: Tensor) -> Tensor:
    """Normalise trunk states (B, T, D) token by token and average those of the mask (B, T): (B, D) in fp32.

    A text without a token in its mask gives zeros. What stands outside the mask is never read, not even a NaN.
    """
    return _own(states, mask).sum(1) / mask.bool().sum(1, keepdim=True).clamp(min=1)  # (B, D)


def _own(states: Tensor, mask: Tensor) -> Tensor:
    """Normalised states (B, T, D), zeros outside the mask (B, T)."""
    return normalize_states(states.float().masked_fill(~mask.bool()[..., None], 0.0))  # (B, T, D)


def normalize_states(states: Tensor) -> Tensor:
    """Each token's state (B, T, D) to mean 0 and variance 1, in fp32."""
    return F.layer_norm(states.float(), states.shape[-1:])


def expert_groups(kind: str, roles: Sequence[str]) -> Tensor:
    """Each expert's group (E,): its own for soft, one for all for hard, its role's for team."""
    if kind == "hard":
        return torch.zeros(len(roles), dtype=torch.long)
    if kind == "team":
        names = list(dict.fromkeys(roles))
        return torch.tensor([names.index(role) for role in roles])
    return torch.arange(len(roles))


class Gate(nn.Module):
    """The router network and the gates made of its logits (method 2).

    Args:
        dim: width of the trunk's state (D).
        roles: the role of each expert, in the order of the gates' columns.
        settings: kind, width, temperature.
    """

    group: Tensor
    shares: Tensor

    def __init__(self, dim: int, roles: Sequence[str], settings: GateSettings = GateSettings()) -> None:
        super().__init__()
        assert roles
        assert settings.fixed is None or len(settings.fixed) == len(roles)
        self.settings, self.experts = settings, len(roles)
        self.register_buffer("group", expert_groups(settings.kind, roles), persistent=False)
        self.groups = int(self.group.max()) + 1
        shares = torch.tensor(settings.fixed or (1.0,) * len(roles), dtype=torch.float32)  # (E,)
        self.register_buffer("shares", shares / shares.sum(), persistent=False)
        self.log_temperature = nn.Parameter(torch.tensor(settings.temperature).log())
        self.attend = nn.Linear(dim, settings.queries, bias=False) if settings.queries else None
        self.net = _network(dim * (1 + settings.queries), self.groups + self.experts, settings)
        if settings.kind == "fixed":
            self.requires_grad_(False)
        self._start()

    def _start(self) -> None:
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        nn.init.normal_(last.weight[self.groups :], std=self.settings.init_std)
        if self.attend is not None:
            nn.init.zeros_(self.attend.weight)  # each starts as the mean

    @property
    def temperature(self) -> Tensor:
        """τ, learned, never below its floor; the floor lets the gradient through, so that τ can rise from it again."""
        free = self.log_temperature.exp()
        return free + (self.settings.min_temperature - free.detach()).clamp(min=0.0)

    def requires_grad_(self, requires_grad: bool = True) -> "Gate":
        """A fixed gate learns nothing, whatever is asked."""
        return super().requires_grad_(requires_grad and self.settings.kind != "fixed")

    def summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """What the router reads of trunk states (B, T, D) and its own tokens (B, T): (B, (1 + queries) · D) in fp32.

        Their mean, and one attention-weighted mean a query: a text's domain often shows in few of its tokens. Where
        tokens are routed, each one's own state: (B, T, D).
        """
        if self.settings.unit == "token":
            return normalize_states(states)  # (B, T, D)
        mean = mean_summary(states, mask)  # (B, D)
        if self.attend is None:
            return mean
        own = _own(states, mask)  # (B, T, D)
        with torch.autocast(own.device.type, enabled=False):
            scores = self.attend(own).masked_fill(~mask.bool()[..., None], torch.finfo(own.dtype).min)  # (B, T, Q)
            seen = scores.softmax(1).transpose(1, 2) @ own  # (B, Q, D)
        return torch.cat([mean, seen.flatten(1)], 1)  # (B, (1 + Q) · D)

    def logits(self, summary: Tensor) -> Tensor:
        """Role and expert logits (B, G + E) of a text's summary, or (B, T, ·) of its tokens' (B, T, ·); always fp32."""
        with torch.autocast(summary.device.type, enabled=False):
            return self.net(summary.float())

    def mix(self, logits: Tensor, hard: bool = False) -> GateOutput:
        """Gates of logits (B, G + E).

        Args:
            hard: one-hot on the most probable expert of all (FinSA-MoE's rule at inference).
        """
        if self.settings.kind == "fixed":
            dense = self._constant(logits)  # (B, E)
            return one_hot_gates(GateOutput(dense, dense)) if hard else GateOutput(dense, dense)
        scaled = logits.float() / self.temperature  # (B, G + E)
        roles = scaled[..., : self.groups].softmax(-1)  # (B, G)
        inside = self._inside(scaled[..., self.groups :])  # (B, E)
        dense = roles[..., self.group] * inside  # (B, E)
        if hard:
            return one_hot_gates(GateOutput(dense, dense))
        winners = self._winners(inside)  # (B, E)
        if self.training:  # what answers has no such gradient
            winners = winners + (inside - inside.detach())  # (B, E)
        return GateOutput(self._keep_largest(roles)[..., self.group] * winners, dense)

    def _constant(self, logits: Tensor) -> Tensor:
        return self.shares.expand(*logits.shape[:-1], -1)  # (B, E)

    def _members(self) -> Tensor:
        return self.group[None] == torch.arange(self.groups, device=self.group.device)[:, None]  # (G, E)

    def _inside(self, logits: Tensor) -> Tensor:
        """Softmax over the experts of each group, (B, E)."""
        by_group = logits[..., None, :].masked_fill(~self._members(), float("-inf")).softmax(-1)  # (B, G, E)
        return by_group.sum(-2)  # (B, E)

    def _winners(self, inside: Tensor) -> Tensor:
        """One-hot on the most probable expert inside each group, without gradient, (B, E)."""
        by_group = inside.detach()[..., None, :].masked_fill(~self._members(), -1.0)  # (B, G, E)
        return _one_hot(by_group).sum(-2)  # (B, E)

    def _keep_largest(self, roles: Tensor) -> Tensor:
        """The k largest groups (B, G): one expert a group is on, and the others of it keep their gradient."""
        top = self.settings.top_k
        if top is None or top >= self.groups:
            return roles
        chosen = roles.topk(top, dim=-1).indices  # (B, k)
        kept = roles * torch.zeros_like(roles).scatter(-1, chosen, 1.0)  # (B, G)
        return kept / kept.sum(-1, keepdim=True)  # (B, G)


def _network(dim: int, outputs: int, settings: GateSettings) -> nn.Sequential:
    if settings.hidden == 0:
        return nn.Sequential(nn.Linear(dim, outputs))
    return nn.Sequential(
        nn.Linear(dim, settings.hidden),
        nn.LayerNorm(settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, outputs),
    )


def _one_hot(scores: Tensor) -> Tensor:
    """1 at the largest of the last dimension, 0 elsewhere, without gradient."""
    best = scores.detach().argmax(-1, keepdim=True)  # (…, 1)
    return torch.zeros_like(scores, requires_grad=False).scatter(-1, best, 1.0)  # torch's own one_hot asks the host


def one_hot_gates(mixed: GateOutput) -> GateOutput:
    """All weight of each text on its one most probable expert (FinSA-MoE's rule at inference)."""
    return GateOutput(_one_hot(mixed.dense), mixed.dense)


def equal_gates(mixed: GateOutput) -> GateOutput:
    """Equal shares for all experts, whatever the router said."""
    shares = torch.full_like(mixed.dense, 1.0 / mixed.dense.shape[-1])  # (B, E)
    return GateOutput(shares, shares)


def restrict_gates(mixed: GateOutput, allowed: Tensor) -> GateOutput:
    """Hold each text, and all its tokens, to the experts it is allowed (B, E) bool, and renormalise.

    Where the gates gave the allowed ones nothing, the soft probabilities decide; where those gave nothing, all alike.
    A text that is allowed none is left to the router.
    """
    allowed = allowed | ~allowed.any(-1, keepdim=True)  # (B, E)
    allowed = allowed.reshape(allowed.shape[0], *(1,) * (mixed.dense.dim() - 2), -1)  # (B, E) or (B, 1, E)
    dense = _renormalised(mixed.dense, allowed, allowed.float())  # (B, E)
    return GateOutput(_renormalised(mixed.gates, allowed, dense), dense)


def _renormalised(shares: Tensor, allowed: Tensor, instead: Tensor) -> Tensor:
    kept = shares * allowed  # (B, E)
    total = kept.sum(-1, keepdim=True)  # (B, 1)
    fallback = instead / instead.sum(-1, keepdim=True)  # (B, E)
    return torch.where(total > 1e-6, kept / total.clamp(min=1e-6), fallback)  # (B, E)
