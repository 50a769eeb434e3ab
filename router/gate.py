"""The router network, from a text's trunk states (B, T, D) to gates (B, E): soft, hard, by group, top-k or fixed."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from router.gate_settings import GateSettings
from router.prior import RouterPrior


@dataclass(frozen=True)
class GateOutput:
    """Gates and routing probabilities, (B, E) or (B, T, E) each; every row sums to 1.

    Args:
        gates: weights that combine the experts, straight-through: hard inside a group in the forward pass, soft in the
            backward pass.
        probs: soft probabilities, for routing losses and reports.
    """

    gates: Tensor
    probs: Tensor


def mean_summary(states: Tensor, mask: Tensor) -> Tensor:
    """Normalize trunk states (B, T, D) per token and average them over the mask (B, T): (B, D) in fp32.

    A text without a token in its mask gives zeros. States outside the mask are ignored, even if they are NaN.
    """
    return _masked_states(states, mask).sum(1) / mask.bool().sum(1, keepdim=True).clamp(min=1)  # (B, D)


def _masked_states(states: Tensor, mask: Tensor) -> Tensor:
    """Return normalized states (B, T, D), with zeros outside the mask (B, T)."""
    return normalize_states(states.float().masked_fill(~mask.bool()[..., None], 0.0))  # (B, T, D)


def normalize_states(states: Tensor) -> Tensor:
    """Normalize each token's state (B, T, D) to mean 0 and variance 1, in fp32."""
    return F.layer_norm(states.float(), states.shape[-1:])


def expert_groups(kind: str, roles: Sequence[str]) -> Tensor:
    """Return the group of each expert (E,): one per expert for soft, a single one for hard, one per role for team."""
    if kind == "hard":
        return torch.zeros(len(roles), dtype=torch.long)
    if kind == "team":
        names = list(dict.fromkeys(roles))
        return torch.tensor([names.index(role) for role in roles])
    return torch.arange(len(roles))


class Gate(nn.Module):
    """The router network and the gates computed from its logits (method 2).

    Args:
        dim: width of the trunk's states (D).
        roles: role of each expert, in the order of the gates' columns.
        settings: kind of gates, and size and temperature of the router.

    Examples:
        >>> import torch
        >>> from router import Gate
        >>> gate = Gate(8, ["news", "forum"])
        >>> states, mask = torch.randn(3, 5, 8), torch.ones(3, 5, dtype=torch.bool)  # (B, T, D), (B, T)
        >>> gates = gate.compute_gates(gate.logits(gate.summary(states, mask))).gates  # (B, E)
        >>> torch.allclose(gates.sum(1), torch.ones(3))
        True
    """

    group: Tensor
    fixed_weights: Tensor

    def __init__(self, dim: int, roles: Sequence[str], settings: GateSettings = GateSettings()) -> None:
        super().__init__()
        assert roles
        assert settings.fixed is None or len(settings.fixed) == len(roles)
        self.settings, self.num_experts = settings, len(roles)
        self.register_buffer("group", expert_groups(settings.kind, roles), persistent=False)
        self.num_groups = int(self.group.max()) + 1
        weights = torch.tensor(settings.fixed or (1.0,) * len(roles), dtype=torch.float32)  # (E,)
        self.register_buffer("fixed_weights", weights / weights.sum(), persistent=False)
        self.log_temperature = nn.Parameter(torch.tensor(settings.temperature).log())
        self.attend = nn.Linear(dim, settings.queries, bias=False) if settings.queries else None
        self.net = _router_network(dim * (1 + settings.queries), self.num_groups + self.num_experts, settings)
        self._row_masks: list[RemovableHandle] = []
        self.prior = None if settings.init == "random" else RouterPrior(dim, len(roles), settings.init)
        if settings.kind == "fixed":
            self.requires_grad_(False)
        self._init_weights()

    def _init_weights(self) -> None:
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        if self.prior is None:
            nn.init.normal_(last.weight[self.num_groups :], std=self.settings.init_std)
        if self.attend is not None:
            nn.init.zeros_(self.attend.weight)  # every query starts as the mean

    @property
    def temperature(self) -> Tensor:
        """τ, learned; the lower bound passes the gradient on, so that τ can rise from it again."""
        free = self.log_temperature.exp()
        return free + (self.settings.min_temperature - free.detach()).clamp(min=0.0)

    def requires_grad_(self, requires_grad: bool = True) -> "Gate":
        """Set `requires_grad` of all parameters; those of a fixed gate always remain untrainable."""
        for mask in self._row_masks:
            mask.remove()
        self._row_masks = []
        return super().requires_grad_(requires_grad and self.settings.kind != "fixed")

    def train_rows(self, experts: Sequence[int]) -> None:
        """Train only the last layer's rows of some experts, by column, and of the groups that only they are in.

        All other weights stay the same bits, so without these experts the gates are what they were. Until the next
        `requires_grad_`, the other rows have a gradient of 0.
        """
        self.requires_grad_(False)
        last = self.net[-1]
        assert isinstance(last, nn.Linear)
        others = [e for e in range(self.num_experts) if e not in experts]
        rows = torch.zeros(self.num_groups + self.num_experts, dtype=torch.bool, device=last.weight.device)  # (G + E,)
        rows[: self.num_groups] = True
        rows[self.group[others]] = False
        rows[[self.num_groups + e for e in experts]] = True
        last.requires_grad_(self.settings.kind != "fixed")
        if last.weight.requires_grad:
            for parameter in (last.weight, last.bias):
                frozen = ~rows.reshape(-1, *(1,) * (parameter.dim() - 1))  # (G + E, 1) or (G + E,)
                self._row_masks.append(parameter.register_hook(lambda grad, frozen=frozen: grad.masked_fill(frozen, 0)))

    @property
    def trains_some_rows(self) -> bool:
        """Whether only some rows of the last layer are trained."""
        return bool(self._row_masks)

    def summary(self, states: Tensor, mask: Tensor) -> Tensor:
        """Return the router's input, in fp32.

        For texts this is the mean state and, for each query, an attention-weighted mean, since often only a few tokens
        show a text's domain. For tokens it is each token's own state.

        Args:
            states: trunk states (B, T, D).
            mask: tokens of the text itself (B, T).

        Returns:
            (B, (1 + Q) · D) for texts, (B, T, D) for tokens; a router that did not start at random has the scores of
            its prior (B, E) as last columns.
        """
        if self.settings.unit == "token":
            return normalize_states(states)  # (B, T, D)
        mean = mean_summary(states, mask)  # (B, D)
        if self.attend is None and self.prior is None:
            return mean
        parts, masked = [mean], _masked_states(states, mask)  # (B, T, D)
        with torch.autocast(masked.device.type, enabled=False):
            if self.attend is not None:
                scores = self.attend(masked).masked_fill(
                    ~mask.bool()[..., None], torch.finfo(masked.dtype).min
                )  # (B, T, Q)
                parts.append((scores.softmax(1).transpose(1, 2) @ masked).flatten(1))  # (B, Q · D)
            if self.prior is not None:
                parts.append(self.prior(mean, masked, mask.bool().sum(1, keepdim=True)))  # (B, E)
        return torch.cat(parts, 1)

    def logits(self, summary: Tensor) -> Tensor:
        """Return group and expert logits (B, G + E) of text summaries, or (B, T, G + E) of tokens, always in fp32."""
        with torch.autocast(summary.device.type, enabled=False):
            if self.prior is None:
                logits: Tensor = self.net(summary.float())
                return logits
            prior = summary[..., -self.num_experts :].float()  # (B, E)
            by_group = prior[..., None, :].masked_fill(~self._group_mask(), float("-inf")).logsumexp(-1)  # (B, G)
            learned: Tensor = self.net(summary[..., : -self.num_experts].float())  # (B, G + E)
            return learned + torch.cat([by_group, prior], -1)

    def is_unfamiliar(self, summary: Tensor) -> Tensor | None:
        """Return which texts (B,) lie beyond the threshold of the prototypes; None without prototypes."""
        if self.prior is None or self.prior.prototypes is None:
            return None
        prototypes = self.prior.prototypes
        return prototypes.distance(summary[:, : prototypes.means.shape[1]]) > prototypes.threshold

    def compute_gates(self, logits: Tensor, hard: bool = False) -> GateOutput:
        """Return the gates of logits (B, G + E) or (B, T, G + E).

        Args:
            logits: group and expert logits.
            hard: put all weight on the most probable expert (FinSA-MoE's rule at inference).
        """
        if self.settings.kind == "fixed":
            probs = self.fixed_weights.expand(*logits.shape[:-1], -1)  # (B, E)
            return hard_gates(GateOutput(probs, probs)) if hard else GateOutput(probs, probs)
        scaled = logits.float() / self.temperature  # (B, G + E)
        group_probs = scaled[..., : self.num_groups].softmax(-1)  # (B, G)
        within_group = self._softmax_within_groups(scaled[..., self.num_groups :])  # (B, E)
        probs = group_probs[..., self.group] * within_group  # (B, E)
        if hard:
            return hard_gates(GateOutput(probs, probs))
        top = self._top_of_groups(within_group)  # (B, E)
        if self.training:  # adds the straight-through gradient
            top = top + (within_group - within_group.detach())  # (B, E)
        return GateOutput(self._top_k_groups(group_probs)[..., self.group] * top, probs)

    def _group_mask(self) -> Tensor:
        return self.group[None] == torch.arange(self.num_groups, device=self.group.device)[:, None]  # (G, E)

    def _softmax_within_groups(self, logits: Tensor) -> Tensor:
        """Return the softmax over the experts of each group, (B, E)."""
        by_group = logits[..., None, :].masked_fill(~self._group_mask(), float("-inf")).softmax(-1)  # (B, G, E)
        return by_group.sum(-2)  # (B, E)

    def _top_of_groups(self, probs: Tensor) -> Tensor:
        """Return 1 for the most probable expert of each group and 0 for the others, without gradient, (B, E)."""
        by_group = probs.detach()[..., None, :].masked_fill(~self._group_mask(), -1.0)  # (B, G, E)
        return _argmax_mask(by_group).sum(-2)  # (B, E)

    def _top_k_groups(self, probs: Tensor) -> Tensor:
        """Return the k largest group probabilities rescaled to sum 1, and 0 for the other groups, (B, G).

        Each group has one active expert, so this selects k experts without removing the gradient inside groups.
        """
        k = self.settings.top_k
        if k is None or k >= self.num_groups:
            return probs
        indices = probs.topk(k, dim=-1).indices  # (B, k)
        top = probs * torch.zeros_like(probs).scatter(-1, indices, 1.0)  # (B, G)
        return top / top.sum(-1, keepdim=True)  # (B, G)


def _router_network(dim: int, outputs: int, settings: GateSettings) -> nn.Sequential:
    if settings.hidden == 0:
        return nn.Sequential(nn.Linear(dim, outputs))
    return nn.Sequential(
        nn.Linear(dim, settings.hidden),
        nn.LayerNorm(settings.hidden),
        nn.ReLU(),
        nn.Dropout(settings.dropout),
        nn.Linear(settings.hidden, outputs),
    )


def _argmax_mask(scores: Tensor) -> Tensor:
    """Return 1 at the largest entry of the last dimension and 0 elsewhere, without gradient."""
    best = scores.detach().argmax(-1, keepdim=True)  # (…, 1)
    # torch's own one_hot would synchronize a GPU with the host.
    return torch.zeros_like(scores, requires_grad=False).scatter(-1, best, 1.0)


def hard_gates(output: GateOutput) -> GateOutput:
    """Put all weight of each text on its most probable expert (FinSA-MoE's rule at inference)."""
    return GateOutput(_argmax_mask(output.probs), output.probs)


def prune_gates(output: GateOutput, threshold: float) -> GateOutput:
    """Set gates (B, E) below a threshold to 0 and rescale the others of the text to sum 1; the largest always stays."""
    active = (output.gates >= threshold) | _argmax_mask(output.gates).bool()  # (B, E)
    return GateOutput(_renormalize(output.gates, active, fallback=active.float()), output.probs)


def equal_gates(output: GateOutput) -> GateOutput:
    """Give all experts equal weights, whatever the router's output."""
    weights = torch.full_like(output.probs, 1.0 / output.probs.shape[-1])  # (B, E)
    return GateOutput(weights, weights)


def restrict_gates(output: GateOutput, allowed: Tensor) -> GateOutput:
    """Restrict each text, with all its tokens, to its allowed experts and rescale their weights to sum 1.

    If the gates of all allowed experts are 0, their soft probabilities are used; if these are 0 too, equal weights.
    A text without an allowed expert is not restricted.

    Args:
        output: gates and probabilities, (B, E) or (B, T, E).
        allowed: (B, E) bool.
    """
    allowed = allowed | ~allowed.any(-1, keepdim=True)  # (B, E)
    allowed = allowed.reshape(allowed.shape[0], *(1,) * (output.probs.dim() - 2), -1)  # (B, E) or (B, 1, E)
    probs = _renormalize(output.probs, allowed, fallback=allowed.float())  # (B, E)
    return GateOutput(_renormalize(output.gates, allowed, fallback=probs), probs)


def _renormalize(weights: Tensor, allowed: Tensor, fallback: Tensor) -> Tensor:
    masked = weights * allowed  # (B, E)
    total = masked.sum(-1, keepdim=True)  # (B, 1)
    fallback = fallback / fallback.sum(-1, keepdim=True)  # (B, E)
    return torch.where(total > 1e-6, masked / total.clamp(min=1e-6), fallback)  # (B, E)
