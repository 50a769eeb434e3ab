"""R-Drop (Liang et al. 2021): two passes of each row with different dropout, whose predictions are to agree."""

from collections.abc import Mapping

import torch
from torch import Tensor

REPEATED = "repeated"
"""Key of a batch of `repeat_rows`: 1 for rows of the second pass, 0 for those of the first."""


def repeat_rows(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a batch (B, …) with every row twice, (2B, …): first all rows, then all again, as one forward pass."""
    rows = len(next(iter(batch.values())))
    second = torch.arange(2, device=next(iter(batch.values())).device).repeat_interleave(rows)  # (2B,)
    return {name: torch.cat([values, values]) for name, values in batch.items()} | {REPEATED: second}


def symmetric_kl(logits: Tensor, mask: Tensor, repeated: Tensor) -> Tensor:
    """Return `½ (KL(p ‖ q) + KL(q ‖ p))` of each row (B,), p and q being its predictions in the two passes.

    Args:
        logits: (2B, K), the rows of each pass in the same order.
        mask: (2B, K) bool, the labels of each row's task.
        repeated: (2B,), not 0 for rows of the second pass.

    Examples:
        >>> import torch
        >>> logits = torch.tensor([[0.0, 0.0], [0.0, 2.0]])
        >>> mask, repeated = torch.ones(2, 2, dtype=torch.bool), torch.tensor([0, 1])
        >>> symmetric_kl(logits, mask, repeated)
        tensor([0.3808])
        >>> symmetric_kl(logits[:1].repeat(2, 1), mask, repeated)
        tensor([0.])
    """
    log_probs = logits.log_softmax(-1).masked_fill(~mask, 0.0)  # (2B, K)
    probs = log_probs.exp() * mask  # (2B, K)
    second = repeated.bool()  # (2B,)
    differences = (probs[~second] - probs[second]) * (log_probs[~second] - log_probs[second])  # (B, K)
    return 0.5 * differences.sum(-1)  # (B,)
