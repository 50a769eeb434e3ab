"""Perplexity of a language model on held-out text, and domain accuracy of its router."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor

from moe.data.collator import Batch, Collate, model_inputs
from moe.data.sampler import row_lengths
from moe.inference.batches import batch_by_tokens
from moe.inference.finite import NonFiniteScores
from moe.inference.torch_predictor import token_budget
from moe.model.mixture import Mixture
from moe.model.mode import RoutingMode
from moe.model.outputs import RouterOutput
from moe.model.routing import allowed_experts

SEED = 0
"""Seed of the masks, so that an encoder predicts the same tokens in every evaluation."""


@dataclass(frozen=True)
class LMEvaluation:
    """Sums over some rows; two evaluations can be added.

    Args:
        loss: Σ −log p over the predicted tokens, in nats.
        tokens: number of predicted tokens.
        rows: number of rows of a known domain.
        right: number of these rows whose largest routing weight is that of an expert of their domain; None without a
            router.
    """

    loss: float = 0.0
    tokens: int = 0
    rows: int = 0
    right: int | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean loss per token."""
        return math.exp(min(self.loss / max(1, self.tokens), 700.0))

    def __add__(self, other: "LMEvaluation") -> "LMEvaluation":
        """The sums over the rows of both."""
        counts = [evaluation.right for evaluation in (self, other) if evaluation.right is not None]
        right = sum(counts) if counts else None
        return LMEvaluation(self.loss + other.loss, self.tokens + other.tokens, self.rows + other.rows, right)


@torch.no_grad()
def evaluate_perplexity(
    model: Mixture, rows: Dataset, collate: Collate, mode: RoutingMode | None = None
) -> LMEvaluation:
    """Evaluate a language model on tokenized rows.

    Args:
        mode: how texts, or tokens, are routed; by default the model's own mode.

    Raises:
        NonFiniteScores: if the loss of a token is NaN.
    """
    head = model.loaded_backbone.lm_head
    assert head is not None
    model.eval()
    device, evaluation = model.domain_expert_mask.device, LMEvaluation()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for indices in batch_by_tokens(row_lengths(rows), token_budget(device, model.backbone.dtype)):
            if len(indices):
                batch = {name: values.to(device) for name, values in collate([rows[int(i)] for i in indices]).items()}
                out = model(**model_inputs(batch), mode=mode)
                losses = head.token_losses(out.pooled, batch["tokens"])  # (N,)
                known, right = _count_routed(model, out.routing, batch)
                if bool(losses.isnan().any()):
                    raise NonFiniteScores("loss")
                evaluation += LMEvaluation(float(losses.double().sum()), len(losses), known, right)
    return evaluation


def _count_routed(model: Mixture, routing: RouterOutput | None, batch: Batch) -> tuple[int, int | None]:
    """Number of rows of a known domain, and how many of them are routed to it."""
    known = batch["domain"] >= 0  # (B,)
    if routing is None:
        return int(known.sum()), None
    mask = allowed_experts(model.domain_expert_mask, batch["domain"])  # (B, E)
    best = weights_per_text(routing.probs, batch).argmax(-1, keepdim=True)  # (B, 1)
    return int(known.sum()), int((mask.gather(1, best)[:, 0] & known).sum())


def weights_per_text(probs: Tensor, batch: Batch) -> Tensor:
    """Soft routing weights (B, E) of texts; with token routing (B, T, E), the mean over the tokens of each text."""
    if probs.dim() == 2:
        return probs
    real = batch["attention_mask"][..., None].to(probs.dtype)  # (B, T, 1)
    return (probs * real).sum(1) / real.sum(1)  # (B, E)


def evaluate_perplexities(
    model: Mixture, held_out: Mapping[str, Dataset], collate: Collate, mode: RoutingMode | None = None
) -> dict[str, float]:
    """Evaluate a language model on held-out rows of several domains.

    Args:
        mode: how texts, or tokens, are routed; by default the model's own mode.

    Returns:
        `perplexity` over all rows, `perplexity_DOMAIN` of each domain, and with a router the domain accuracy `routing`.
    """
    evaluations = {name: evaluate_perplexity(model, rows, collate, mode) for name, rows in held_out.items()}
    total = sum(evaluations.values(), start=LMEvaluation())
    routing = {} if total.right is None else {"routing": total.right / max(1, total.rows)}
    return {"perplexity": total.perplexity, **perplexity_fields(evaluations), **routing}


def perplexity_fields(evaluations: Mapping[str, LMEvaluation]) -> dict[str, float]:
    """Perplexity of each domain as `perplexity_DOMAIN`."""
    return {f"perplexity_{name}": evaluation.perplexity for name, evaluation in evaluations.items()}
