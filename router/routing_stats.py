"""Statistics of soft gates over many texts: mean weights, entropy, domain accuracy and collapsed experts."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class Usage:
    """Running sums of soft gates.

    Args:
        experts: names, in the order of the gates' columns.
        domains: names, in the order of the domain indices.

    Examples:
        >>> import torch
        >>> from router import Usage
        >>> usage = Usage(["news", "forum"], ["news", "forum"])
        >>> probs = torch.tensor([[0.9, 0.1], [0.3, 0.7]])  # (B, E)
        >>> usage.add(probs, torch.tensor([0, 1]), torch.eye(2, dtype=torch.bool))
        >>> usage.domain_accuracy()
        1.0
    """

    def __init__(self, experts: Sequence[str], domains: Sequence[str]) -> None:
        self.experts, self.domains = tuple(experts), tuple(domains)
        self.texts, self.entropy_sum, self.correct, self.known = 0, 0.0, 0, 0
        # The last row is for texts of unknown domain.
        self.weight_sums = torch.zeros(len(domains) + 1, len(experts), dtype=torch.float64)  # (domains + 1, E)
        self.counts = torch.zeros(len(domains) + 1, dtype=torch.float64)  # (domains + 1,)

    def add(self, probs: Tensor, domain: Tensor, domain_expert_mask: Tensor) -> None:
        """Add a batch.

        Args:
            probs: soft gates (B, E).
            domain: domain indices (B,), −1 if unknown.
            domain_expert_mask: (domains, E) bool, the experts of each domain.
        """
        weights = probs.detach().cpu().double()  # (B, E)
        row = domain.cpu() % len(self.counts)  # (B,), −1 becomes the last row
        self.weight_sums.index_add_(0, row, weights)
        self.counts += torch.bincount(row, minlength=len(self.counts))
        self.texts += len(weights)
        self.entropy_sum += float(text_entropy(weights).sum())
        predicted = (weights @ domain_expert_mask.cpu().double().T).argmax(-1)  # (B,)
        self.correct += int((predicted == domain.cpu()).sum())
        self.known += int((domain >= 0).sum())

    def mean_weights(self) -> dict[str, float]:
        """Return the mean weight of each expert over all texts."""
        mean = self.weight_sums.sum(0) / max(1, self.texts)  # (E,)
        return dict(zip(self.experts, mean.tolist(), strict=True))

    def mean_entropy(self) -> float:
        """Return the mean entropy of a text's gates, from 0 (one expert) to 1 (all experts equally)."""
        return self.entropy_sum / max(1, self.texts)

    def by_domain(self) -> dict[str, dict[str, float]]:
        """Return the mean weight of each expert by domain, for the domains that have texts."""
        means = self.weight_sums / self.counts.clamp(min=1.0)[:, None]  # (domains + 1, E)
        return {
            name: dict(zip(self.experts, means[i].tolist(), strict=True))
            for i, name in enumerate(self.domains)
            if self.counts[i] > 0
        }

    def domain_accuracy(self) -> float:
        """Return how often the domain with the most weight is the true one, over texts of known domain."""
        return self.correct / max(1, self.known)

    def collapsed_experts(self, threshold: float = 0.02) -> tuple[str, ...]:
        """Return the experts whose mean weight is below the threshold; none if there are no texts."""
        if not self.texts:
            return ()
        return tuple(name for name, weight in self.mean_weights().items() if weight < threshold)


def text_entropy(weights: Tensor) -> Tensor:
    """Return the entropy (B,) of each text's weights (B, E), scaled to 0 … 1; 0 if E ≤ 1."""
    experts = weights.shape[-1]
    if experts <= 1:
        return weights.new_zeros(weights.shape[:-1])
    return -(weights * weights.clamp(min=1e-12).log()).sum(-1) / math.log(experts)
