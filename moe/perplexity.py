"""How well a model foresees held-out text: exp of the mean −log p of its tokens, role by role.

Which text it is, and who is trained, is `moe.pretrain`'s.
"""

import math
from collections.abc import Mapping

import torch
from datasets import Dataset

from moe.backbone import token_budget
from moe.data.batches import Collate, by_budget, row_lengths
from moe.model import Mixture
from moe.train import EXTRAS

SEED = 0
"""Of the masks: encoders are asked for the same tokens each time."""


@torch.no_grad()
def mean_loss(model: Mixture, rows: Dataset, collate: Collate) -> tuple[float, int]:
    """−log p, meaned over the tokens that are asked for, and how many those are."""
    assert model.source.language is not None
    model.eval()
    device = model.owners.device
    total, count = 0.0, 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        for some in by_budget(row_lengths(rows), token_budget(device, model.backbone.dtype)):
            batch = {name: values.to(device) for name, values in collate([rows[int(i)] for i in some]).items()}
            out = model(**{name: batch.get(name) for name in ("input_ids", "attention_mask", *EXTRAS)})
            each = model.source.language.losses(out.pooled, batch["tokens"])  # (N,)
            total, count = total + float(each.double().sum()), count + len(each)
    return total / max(count, 1), count


def perplexities(model: Mixture, held_out: Mapping[str, Dataset], collate: Collate) -> dict[str, float]:
    """`perplexity_ROLE` of each role's held-out rows."""
    return {f"perplexity_{name}": math.exp(mean_loss(model, rows, collate)[0]) for name, rows in held_out.items()}
