"""How well a model foresees held-out text: exp of the mean −log p of its tokens; and how many texts it routes right.

Which text it is, and who is trained, is `moe.training.lm_dataset`'s.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from datasets import Dataset
from torch import Tensor

from moe.data.collator import Batch, Collate, model_inputs
from moe.data.sampler import batch_by_tokens, row_lengths
from moe.model.backbone import token_budget
from moe.model.mixture import Mixture, RouterOutput, allowed_experts

SEED = 0
"""Of the masks: encoders are asked for the same tokens each time."""


@dataclass(frozen=True)
class LMEvaluation:
    """What was seen of some rows.

    Args:
        loss: Σ −log p over the tokens that were asked for.
        tokens: how many those are.
        rows: how many rows of a known domain there were.
        right: how many of them the router gave most to an expert of their domain; None where there was no router.
    """

    loss: float = 0.0
    tokens: int = 0
    rows: int = 0
    right: int | None = None

    @property
    def perplexity(self) -> float:
        """exp of the mean loss a token."""
        return math.exp(min(self.loss / max(1, self.tokens), 700.0))

    def __add__(self, other: "Foreseen") -> "Foreseen":
        """Both together."""
        rights = [one.right for one in (self, other) if one.right is not None]
        right = sum(rights) if rights else None
        return LMEvaluation(self.loss + other.loss, self.tokens + other.tokens, self.rows + other.rows, right)


@torch.no_grad()
def evaluate_perplexity(model: Mixture, rows: Dataset, collate: Collate) -> LMEvaluation:
    """Run a model over rows of tokens."""
    assert model.loaded_backbone.lm_head is not None
    model.eval()
    device, found = model.domain_expert_mask.device, LMEvaluation()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for some in batch_by_tokens(row_lengths(rows), token_budget(device, model.backbone.dtype)):
            if len(some):
                batch = {name: values.to(device) for name, values in collate([rows[int(i)] for i in some]).items()}
                out = model(**model_inputs(batch))
                each = model.loaded_backbone.lm_head.token_losses(out.pooled, batch["tokens"])  # (N,)
                found += LMEvaluation(float(each.double().sum()), len(each), *_routed(model, out.routing, batch))
    return found


def _routed(model: Mixture, routed: RouterOutput | None, batch: Batch) -> tuple[int, int | None]:
    known = batch["domain"] >= 0  # (B,)
    if routed is None:
        return int(known.sum()), None
    own = allowed_experts(model.domain_expert_mask, batch["domain"])  # (B, E)
    best = weights_per_text(routed.probs, batch).argmax(-1, keepdim=True)  # (B, 1)
    return int(known.sum()), int((own.gather(1, best)[:, 0] & known).sum())


def weights_per_text(dense: Tensor, batch: Batch) -> Tensor:
    """Soft shares (B, E) of texts: where tokens (B, T, E) are routed, the mean of a text's own."""
    if dense.dim() == 2:
        return dense
    real = batch["attention_mask"][..., None].to(dense.dtype)  # (B, T, 1)
    return (dense * real).sum(1) / real.sum(1)  # (B, E)


def evaluate_perplexities(model: Mixture, held_out: Mapping[str, Dataset], collate: Collate) -> dict[str, float]:
    """`perplexity` over all of some rows by domain, `perplexity_DOMAIN` of each, `routing` where there is a router."""
    found = {name: evaluate_perplexity(model, rows, collate) for name, rows in held_out.items()}
    whole = sum(found.values(), start=LMEvaluation())
    routing = {} if whole.right is None else {"routing": whole.right / max(1, whole.rows)}
    return {"perplexity": whole.perplexity, **perplexity_fields(found), **routing}


def perplexity_fields(found: Mapping[str, LMEvaluation]) -> dict[str, float]:
    """`perplexity_ROLE` of each."""
    return {f"perplexity_{name}": one.perplexity for name, one in found.items()}
