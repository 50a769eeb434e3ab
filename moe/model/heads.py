"""Pooling, class heads and polarity heads: one set for the mixture, or one set per expert mixed by the gates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from experts.domain import ORDINAL, Kind, Labels, LabelSpace, head_kind


class HeadSettings(BaseModel):
    """How a pooled state is mapped to class logits and a polarity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["linear", "mlp"] = Field(
        "linear",
        description="one linear layer, or the DAO paper's hidden layer (eq. 2, 5, 6); linear heads average exactly",
    )
    bias: bool = Field(
        True,
        description="whether linear class heads have a bias; those of transformers' classifiers on decoders have none, "
        "see `moe export --to vllm`",
    )
    hidden: int = Field(128, ge=1, le=65_536, description="width of the hidden layer of `mlp`; a wider one fits more")
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout probability on the pooled state in training")
    merge: Literal["averaged", "per_expert"] = Field(
        "per_expert",
        description="merging averages the experts' heads, or keeps them per expert and mixes them by the gates",
    )
    polarity_bound: Literal["tanh", "clip", "none"] = Field(
        "tanh", description="how the polarity is limited to [-1, 1]; `none` is the paper's eq. 2"
    )

    @model_validator(mode="after")
    def _check_bias(self) -> Self:
        if not self.bias and self.kind != "linear":
            raise ValueError(f"expected heads.kind linear with heads.bias false, not {self.kind}")
        return self


@dataclass(frozen=True)
class HeadOutput:
    """Logits (B, K) by class head, and the polarity (B,) if there is a polarity head."""

    logits: dict[str, Tensor]
    polarity: Tensor | None


def pool(states: Tensor, mask: Tensor, kind: str) -> Tensor:
    """Pool token states (B, T, D) over their mask (B, T) to (B, D), in fp32.

    Args:
        kind: `mean` of the real tokens, or the `last` real one.
    """
    if kind == "last":
        last = (mask * torch.arange(mask.shape[1], device=mask.device)).argmax(1)  # (B,)
        return states[torch.arange(states.shape[0], device=states.device), last].float()  # (B, D)
    weights = mask[..., None].float()  # (B, T, 1)
    return (states.float() * weights).sum(1) / weights.sum(1).clamp(min=1.0)  # (B, D)


FIRST_STEP = 2.0
"""Distance of two thresholds of an ordinal head before training; at less, a label between others is never the most
probable one until the thresholds have moved, which takes many steps at the usual learning rates."""


class OrdinalLinear(nn.Linear):
    """A cumulative-link model of K ordered labels with proportional odds (McCullagh, 1980).

    P(label ≤ k) = σ(θ_k − s), with one score s = w_0 · h + b_0 of the state and K − 1 ascending thresholds: θ_1 = 0 and
    θ_k = θ_(k−1) + softplus(b_k). The other rows of the weight and b_1 are 0 and unused: with the layout of a linear
    layer, merging treats all heads alike.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__(dim, classes)
        with torch.no_grad():
            self.weight[1:] = 0.0
            self.bias.zero_()
            self.bias[2:] = math.log(math.expm1(FIRST_STEP))  # the inverse of softplus
            self.bias[0] = F.softplus(self.bias[2:]).sum() / 2  # in the middle of the thresholds

    def forward(self, pooled: Tensor) -> Tensor:
        """Map the pooled state (B, D) to the logarithms of the labels' probabilities (B, K).

        log(σ(a) − σ(b)) = log σ(a) + log σ(−b) + log(1 − e^(b − a)), which is finite for all finite a > b.
        """
        score = F.linear(pooled, self.weight[:1], self.bias[:1])  # (B, 1)
        steps = F.softplus(self.bias[2:])  # (K − 2,)
        thresholds = torch.cat([steps.new_zeros(1), steps.cumsum(0)])  # (K − 1,)
        below, above = F.logsigmoid(thresholds - score), F.logsigmoid(score - thresholds)  # (B, K − 1) each
        inner = below[:, 1:] + above[:, :-1] + (-torch.expm1(-steps)).log()  # (B, K − 2)
        return torch.cat([below[:, :1], inner, above[:, -1:]], 1)  # (B, K)


def _class_head(dim: int, classes: int, settings: HeadSettings, kind: Kind) -> nn.Sequential:
    last: type[nn.Linear] = OrdinalLinear if kind == ORDINAL else nn.Linear
    if settings.kind == "linear":
        layer = OrdinalLinear(dim, classes) if kind == ORDINAL else nn.Linear(dim, classes, bias=settings.bias)
        return nn.Sequential(nn.Dropout(settings.dropout), layer)
    drop = settings.dropout
    return nn.Sequential(
        nn.Dropout(drop),
        nn.Linear(dim, settings.hidden),
        nn.Tanh(),
        nn.Dropout(drop),
        last(settings.hidden, classes),
    )


def _polarity_head(dim: int, settings: HeadSettings) -> nn.Sequential:
    if settings.kind == "linear":
        return nn.Sequential(nn.Dropout(settings.dropout), nn.Linear(dim, 1))
    return nn.Sequential(nn.Linear(dim, settings.hidden), nn.Sigmoid(), nn.Linear(settings.hidden, 1))


def head_key(name: str) -> str:
    """Return a head's name as a module key, in which torch allows no dot."""
    return name.replace(".", "_")


class Heads(nn.Module):
    """One class head per label set, and a polarity head if scores are learned.

    Args:
        dim: width of the pooled state (D).
        heads: label names by head.
        polarity: whether there is a polarity head.
        seed: equal seeds give equal initial weights, so that experts' heads can be averaged.
    """

    def __init__(
        self, dim: int, heads: Mapping[str, Labels], settings: HeadSettings, polarity: bool, seed: int = 0
    ) -> None:
        super().__init__()
        self.bound = settings.polarity_bound
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.classes = nn.ModuleDict(
                {
                    head_key(name): _class_head(dim, len(labels), settings, head_kind(name, labels))
                    for name, labels in heads.items()
                }
            )
            self.polarity = _polarity_head(dim, settings) if polarity else None
        self.names = {head_key(name): name for name in heads}

    def forward(self, pooled: Tensor, gates: Tensor | None = None) -> HeadOutput:
        """Map the pooled state (B, D) to logits and polarity; the gates are not used."""
        logits = {self.names[key]: head(pooled) for key, head in self.classes.items()}  # (B, K) each
        return HeadOutput(logits, self._polarity(pooled))

    def _polarity(self, pooled: Tensor) -> Tensor | None:
        if self.polarity is None:
            return None
        raw: Tensor = self.polarity(pooled)[:, 0]  # (B,)
        if self.bound == "tanh":
            return torch.tanh(raw)
        return raw.clamp(-1.0, 1.0) if self.bound == "clip" and not self.training else raw


class MixedHeads(nn.Module):
    """One set of heads per expert, their outputs mixed by the gates: Σ_e g_e · head_e(h).

    Args:
        heads: one `Heads` per expert, in the order of the gates' columns.
    """

    def __init__(self, heads: Mapping[str, Heads]) -> None:
        super().__init__()
        self.experts = nn.ModuleDict(heads)

    def forward(self, pooled: Tensor, gates: Tensor) -> HeadOutput:
        """Map the pooled state (B, D) to logits and polarity, mixed by the gates (B, E)."""
        outputs = [head(pooled) for head in self.experts.values()]
        gates = gates.expand(pooled.shape[0], -1).to(pooled.dtype)  # (B, E)
        logits = {
            name: sum(gates[:, e, None] * output.logits[name] for e, output in enumerate(outputs))  # (B, K)
            for name in outputs[0].logits
        }
        polarity = None
        if outputs[0].polarity is not None:
            polarity = torch.stack([output.polarity for output in outputs], 1).mul(gates).sum(1)  # (B,)
        return HeadOutput(logits, polarity)


class NoHeads(nn.Module):
    """Placeholder without parameters, for a backbone that uses its own language-model head."""


@dataclass(frozen=True)
class LabelTables:
    """The label space as tensors: each task's head, and the labels of that head that the task uses.

    Args:
        heads: head names, in order.
        head_of: (tasks,), index into `heads`; −1 for a task with a score alone.
        masks: by head (tasks, K) bool, rows of False for tasks of other heads.
    """

    heads: tuple[str, ...]
    head_of: Tensor
    masks: dict[str, Tensor]

    @classmethod
    def of(cls, labels: LabelSpace) -> "LabelTables":
        """Build the tables of a label space."""
        heads = tuple(labels.heads)
        masks = {
            head: torch.tensor(
                [
                    labels.mask(task) if labels.head_by_task.get(task) == head else (False,) * len(names)
                    for task in labels.tasks
                ]
            ).reshape(len(labels.tasks), len(names))
            for head, names in labels.heads.items()
        }
        used = [labels.head_by_task.get(task) for task in labels.tasks]
        return cls(heads, torch.tensor([-1 if head is None else heads.index(head) for head in used]), masks)

    def labelled_rows(self, head: str, task: Tensor, label: Tensor) -> Tensor:
        """Return (B,) bool: which rows, given by task and label (B,), have a label of this head."""
        return self.rows_of_head(head, task) & (label >= 0)

    def rows_of_head(self, head: str, task: Tensor) -> Tensor:
        """Return (B,) bool: which rows, given by task (B,), are of a task with this head."""
        return (self.head_of.to(task.device)[task.clamp(min=0)] == self.heads.index(head)) & (task >= 0)

    def rows_with_score_alone(self, task: Tensor) -> Tensor:
        """Return (B,) bool: which rows, given by task (B,), are of a task without a head."""
        return (self.head_of.to(task.device)[task.clamp(min=0)] < 0) & (task >= 0)


def mask_logits(logits: Tensor, mask: Tensor) -> Tensor:
    """Set the logits (B, K) of labels that a task does not use (mask False) to the lowest finite value."""
    return logits.masked_fill(~mask, torch.finfo(logits.dtype).min)
