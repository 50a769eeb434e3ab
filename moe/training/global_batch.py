"""One step's rows as one batch: micro-batches of this process joined, and those of other processes gathered.

Which losses are made of it is `moe.training.objective`'s; how a gradient goes back to the parts,
`moe.training.gradient_cache`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe import distributed
from moe.data.collator import Batch
from moe.model.mixture import MixtureOutput, RouterOutput, allowed_experts
from router.loss_weighting import loss_gradients, gradient_norms

MicroBatch = tuple[MixtureOutput, Batch]


@dataclass(frozen=True)
class GradientPoint:
    """Where losses meet: a state, in as many parts as there are, or weights.

    Args:
        parts: of this process.
        texts: of all processes, where it is a state; None for weights, which every process has.
    """

    parts: Sequence[Tensor]
    texts: int | None

    def norms(self, losses: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Tensor]:
        """Norm of each loss's gradient here, as `router.loss_weighting.gradient_norms` tells it of one tensor."""
        if self.texts is None:
            return {name: grad.norm() for name, grad in self.gradients(losses).items()}
        own = gradient_norms(losses, self.parts, {})
        return {name: distributed.global_norm(one) * rows.get(name, self.texts) ** 0.5 for name, one in own.items()}

    def gradients(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradient of each loss as one vector (P,), the same in every process."""
        every = distributed.all_reduce if self.texts is None else distributed.all_gather
        return {name: every(grad) for name, grad in loss_gradients(losses, self.parts).items()}


@dataclass(frozen=True)
class GlobalRouting:
    """What the router said of a step's N texts, or tokens where those are routed.

    Args:
        dense: (N, E), soft probabilities.
        allowed: (N, E) bool, the experts of each one's domain.
        logits: this process's, (B, G + E) or (B, T, G + E) a part; where the routing losses meet.
        branches: the same on the sentiment loss's path.
        learned: whether the sentiment loss reaches the router.
    """

    dense: Tensor
    allowed: Tensor
    logits: list[Tensor]
    branches: list[Tensor]
    learned: bool


@dataclass(frozen=True)
class GlobalBatch:
    """A step's B texts: class logits (B, K) by head, polarity (B,), what they should be (B,), and the routing.

    `pooled` are this process's parts (b, D), for a gradient is measured where it was made.
    """

    logits: dict[str, Tensor]
    polarity: Tensor | None
    task: Tensor
    label: Tensor
    score: Tensor
    texts: int
    pooled: list[Tensor]
    routing: GlobalRouting | None


def gather_batch(parts: Sequence[MicroBatch], owners: Tensor) -> GlobalBatch:
    """Join what was made of a step's parts, here and in other processes.

    Args:
        owners: (domains, E) bool, the experts of each domain.
    """
    outs = [out for out, _ in parts]
    domain = distributed.all_gather(_cat([batch["domain"] for _, batch in parts]))  # (B,)
    none = torch.full_like(domain, -1)  # (B,)
    known = {
        key: distributed.all_gather(_cat([batch[key] for _, batch in parts])) if key in parts[0][1] else default
        for key, default in (("task", none), ("label", none), ("score", none * torch.nan))
    }
    logits = {head: distributed.all_gather(_cat([out.logits[head] for out in outs])) for head in outs[0].logits}  # (B, K)
    polarity = [out.polarity for out in outs if out.polarity is not None]
    routed = [(out.routing, batch) for out, batch in parts if out.routing is not None]
    return GlobalBatch(
        logits=logits,
        polarity=distributed.all_gather(_cat(polarity)) if polarity else None,  # (B,)
        texts=len(domain),
        pooled=[out.pooled for out in outs],
        routing=_routing(routed, owners) if routed else None,
        **known,
    )


def _routing(parts: Sequence[tuple[RouterOutput, Batch]], owners: Tensor) -> GlobalRouting:
    dense, allowed = zip(*[_each(routed, batch, owners) for routed, batch in parts], strict=True)
    return GlobalRouting(
        dense=distributed.all_gather(_cat(dense)),
        allowed=distributed.all_gather(_cat(allowed)),
        logits=[routed.logits for routed, _ in parts],
        branches=[routed.logits_for_loss for routed, _ in parts],
        learned=any(routed.gates.requires_grad for routed, _ in parts),
    )


def _each(routed: RouterOutput, batch: Batch, owners: Tensor) -> tuple[Tensor, Tensor]:
    """Soft shares and own experts, (N, E) each; where tokens are routed, each by its text's domain."""
    dense, allowed = routed.probs, allowed_experts(owners, batch["domain"])  # (b, E) or (b, T, E), (b, E)
    if dense.dim() == 2:
        return dense, allowed
    real = batch["attention_mask"].bool()  # (b, T)
    return dense[real], allowed[:, None].expand(-1, real.shape[1], -1)[real]  # (N, E) each


def _cat(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))
