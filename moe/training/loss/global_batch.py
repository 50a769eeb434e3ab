"""What the loss of a step reads: its rows as one batch, gathered over processes, and where gradients are compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moe import distributed
from moe.data.collator import Batch
from moe.data.distilled.columns import TEACHER, TEACHER_SCORE
from moe.model.lm_head import LMHead
from moe.model.mixture import Mixture
from moe.model.outputs import MixtureOutput, RouterOutput
from moe.model.routing import allowed_experts
from moe.training.loss.holdout import HoldoutSampler
from router.losses import gradient_norms, loss_gradients

MicroBatch = tuple[MixtureOutput, Batch]
Parameters = Callable[[], Sequence[Tensor]]


@dataclass
class LossContext:
    """What the loss needs of the model and of other data.

    Args:
        expert_parameters: returns the experts' parameters, at which the inner level may compare gradients.
        last_layer_parameters: returns those in the last linear layer, for the inner level's look-ahead.
        router_parameters: returns the router's parameters, for the outer level's look-ahead.
        holdout: batches of other training rows; None where no level needs them.
        lm_head: the backbone's own language-model head, if the model has one.
    """

    expert_parameters: Parameters = tuple
    last_layer_parameters: Parameters = tuple
    router_parameters: Parameters = tuple
    holdout: HoldoutSampler | None = None
    lm_head: LMHead | None = None

    @classmethod
    def of(cls, model: Mixture) -> "LossContext":
        """Context of a model; which parameters are trainable is looked up at each call."""
        return cls(
            expert_parameters=lambda: list(model.expert_parameters().values()),
            last_layer_parameters=model.last_expert_parameters,
            router_parameters=lambda: [] if model.gate is None else list(model.gate.parameters()),
            lm_head=model.loaded_backbone.lm_head,
        )


@dataclass(frozen=True)
class GradientPoint:
    """Tensors at which the gradients of several losses are compared: a hidden state in parts, or shared weights.

    Args:
        tensors: those of this process.
        texts: number of texts in all processes for a hidden state; None for weights, which every process has.
    """

    tensors: Sequence[Tensor]
    texts: int | None

    def norms(self, losses: Mapping[str, Tensor], rows: Mapping[str, int]) -> dict[str, Tensor]:
        """Norm of each loss's gradient over all processes, scaled as in `router.losses.gradient_norms`.

        Args:
            rows: number of rows that have each loss; by default, all texts.
        """
        if self.texts is None:
            return {name: grad.norm() for name, grad in self.gradients(losses).items()}
        local = gradient_norms(losses, self.tensors, {})
        return {name: distributed.global_norm(norm) * rows.get(name, self.texts) ** 0.5 for name, norm in local.items()}

    def gradients(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradient of each loss as one vector (P,), the same in every process."""
        combine = distributed.all_reduce if self.texts is None else distributed.all_gather
        return {name: combine(grad) for name, grad in loss_gradients(losses, self.tensors).items()}


@dataclass(frozen=True)
class GlobalRouting:
    """Router outputs for a step's N texts, or its N tokens if tokens are routed.

    Args:
        probs: (N, E), soft routing probabilities.
        allowed: (N, E) bool, the experts of each text's domain.
        logits: gate logits of this process, (B, G + E) or (B, T, G + E) per micro-batch, from which the routing losses
            are computed.
        logits_for_loss: the same logits on the path of the sentiment loss.
        reaches_router: whether the sentiment loss has a gradient in the router.
    """

    probs: Tensor
    allowed: Tensor
    logits: list[Tensor]
    logits_for_loss: list[Tensor]
    reaches_router: bool


@dataclass(frozen=True)
class GlobalBatch:
    """Outputs and targets of a step's B texts in all processes.

    Args:
        logits: (B, K) per head.
        polarity: (B,), predicted polarity; None without a polarity head.
        task: (B,), index of each text's task; −1 if it has none.
        label: (B,), index of each text's label; −1 if it has none.
        score: (B,), target polarity; NaN if it has none.
        texts: B.
        pooled: pooled states (b, D) of this process's micro-batches; gradients are measured where they were computed.
        routing: None if no router was used.
        domain: (B,), index of each text's domain; −1 if it is unknown.
        teacher: (B, K), the teachers' probabilities of the labels of each text's head; NaN where they gave no answer;
            None if no row has any.
        teacher_score: (B,), the teachers' polarity, likewise.
    """

    logits: dict[str, Tensor]
    polarity: Tensor | None
    task: Tensor
    label: Tensor
    score: Tensor
    texts: int
    pooled: list[Tensor]
    routing: GlobalRouting | None
    domain: Tensor
    teacher: Tensor | None
    teacher_score: Tensor | None


def gather_batch(micro_batches: Sequence[MicroBatch], domain_expert_mask: Tensor) -> GlobalBatch:
    """Concatenate the outputs of a step's micro-batches in this and all other processes.

    Args:
        domain_expert_mask: (domains, E) bool, the experts of each domain.
    """
    outputs = [output for output, _ in micro_batches]
    domain = _gather([batch["domain"] for _, batch in micro_batches])  # (B,)
    none = torch.full_like(domain, -1)  # (B,)
    targets = {
        key: _gather([batch[key] for _, batch in micro_batches]) if key in micro_batches[0][1] else default
        for key, default in (("task", none), ("label", none), ("score", none * torch.nan))
    }
    taught = TEACHER in micro_batches[0][1]
    logits = {head: _gather([output.logits[head] for output in outputs]) for head in outputs[0].logits}  # (B, K)
    polarity = [output.polarity for output in outputs if output.polarity is not None]
    routed = [(output.routing, batch) for output, batch in micro_batches if output.routing is not None]
    return GlobalBatch(
        logits=logits,
        polarity=_gather(polarity) if polarity else None,  # (B,)
        texts=len(domain),
        pooled=[output.pooled for output in outputs],
        routing=_gather_routing(routed, domain_expert_mask) if routed else None,
        domain=domain,
        teacher=_gather([batch[TEACHER] for _, batch in micro_batches]) if taught else None,  # (B, K)
        teacher_score=_gather([batch[TEACHER_SCORE] for _, batch in micro_batches]) if taught else None,  # (B,)
        **targets,
    )


def _gather_routing(parts: Sequence[tuple[RouterOutput, Batch]], domain_expert_mask: Tensor) -> GlobalRouting:
    probs, allowed = zip(*[_flatten_routing(router, batch, domain_expert_mask) for router, batch in parts], strict=True)
    return GlobalRouting(
        probs=_gather(probs),
        allowed=_gather(allowed),
        logits=[router.logits for router, _ in parts],
        logits_for_loss=[router.logits_for_loss for router, _ in parts],
        reaches_router=any(router.gates.requires_grad for router, _ in parts),
    )


def _flatten_routing(router: RouterOutput, batch: Batch, domain_expert_mask: Tensor) -> tuple[Tensor, Tensor]:
    """Routing probabilities and allowed experts, (N, E) each; a token has the experts of its text's domain."""
    probs, allowed = router.probs, allowed_experts(domain_expert_mask, batch["domain"])  # (b, E) or (b, T, E), (b, E)
    if probs.dim() == 2:
        return probs, allowed
    is_token = batch["attention_mask"].bool()  # (b, T)
    return probs[is_token], allowed[:, None].expand(-1, is_token.shape[1], -1)[is_token]  # (N, E) each


def _gather(parts: Sequence[Tensor]) -> Tensor:
    """Concatenate parts (b, …) of this process, then of all processes, (B, …)."""
    return distributed.all_gather(parts[0] if len(parts) == 1 else torch.cat(list(parts)))
