"""What the router did over many texts: share and entropy, domain × expert table, collapse alarm.

It is handed soft gates; how they were made is `router.gate`'s.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Usage:
    """Running sums of soft gates.

    Args:
        experts: names, in the order of the gates' columns.
        domains: names, in the order of the domain indices.
    """

    def __init__(self, experts: Sequence[str], domains: Sequence[str]) -> None:
        self.experts, self.domains = tuple(experts), tuple(domains)
        self.texts, self.entropies, self.right, self.known = 0, 0.0, 0, 0
        self.sums = torch.zeros(len(domains) + 1, len(experts), dtype=torch.float64)  # (domains + 1, E)
        self.counts = torch.zeros(len(domains) + 1, dtype=torch.float64)  # (domains + 1,)

    def add(self, dense: Tensor, domain: Tensor, owners: Tensor) -> None:
        """Count a batch.

        Args:
            dense: soft gates (B, E).
            domain: domain indices (B,), −1 unknown.
            owners: (domains, E) bool, the experts of each domain.
        """
        shares = dense.detach().cpu().double()  # (B, E)
        place = domain.cpu() % len(self.counts)  # (B,), unknown ones in the last row
        self.sums.index_add_(0, place, shares)
        self.counts += torch.bincount(place, minlength=len(self.counts))
        self.texts += len(shares)
        self.entropies += float(text_entropy(shares).sum())
        best = (shares @ owners.cpu().double().T).argmax(-1)  # (B,)
        self.right += int((best == domain.cpu()).sum())
        self.known += int((domain >= 0).sum())

    def share(self) -> dict[str, float]:
        """Mean share of each expert over all texts."""
        mean = self.sums.sum(0) / max(1, self.texts)  # (E,)
        return dict(zip(self.experts, mean.tolist(), strict=True))

    def entropy(self) -> float:
        """Mean entropy of a text's gates, from 0 (one expert) to 1 (all alike)."""
        return self.entropies / max(1, self.texts)

    def table(self) -> dict[str, dict[str, float]]:
        """Mean share of each expert by domain, for the domains that were seen."""
        means = self.sums / self.counts.clamp(min=1.0)[:, None]  # (domains + 1, E)
        return {
            name: dict(zip(self.experts, means[i].tolist(), strict=True))
            for i, name in enumerate(self.domains)
            if self.counts[i] > 0
        }

    def accuracy(self) -> float:
        """How often the most probable domain was the true one, over texts whose domain is known."""
        return self.right / max(1, self.known)

    def collapsed(self, threshold: float = 0.02) -> tuple[str, ...]:
        """Experts whose share of all texts is below the threshold; none before the first text."""
        if not self.texts:
            return ()
        return tuple(name for name, share in self.share().items() if share < threshold)


def text_entropy(shares: Tensor) -> Tensor:
    """Entropy of each text's shares (B, E), from 0 to 1; 0 if E ≤ 1. Gives (B,)."""
    experts = shares.shape[-1]
    if experts <= 1:
        return shares.new_zeros(shares.shape[:-1])
    return -(shares * shares.clamp(min=1e-12).log()).sum(-1) / math.log(experts)
