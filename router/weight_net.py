"""DAO's weight net: a softmax over losses with a floor under every weight (DAO paper eq. 18 to 21).

What it is fed and what it learns from is `router.dao`'s.
"""

import torch
from torch import Tensor, nn


class WeightNet(nn.Module):
    """FC1 – ReLU – FC2 – softmax over the weighed losses (eq. 18 to 21), with a floor under every weight."""

    def __init__(self, losses: int, hidden: int, floor: float, seed: int) -> None:
        super().__init__()
        assert 0 <= floor * losses <= 1 + 1e-9, "the floors may not exceed the whole"
        self.floor = floor
        # A generator of its own: somebody else's loop keeps its random numbers, on every device.
        own = torch.Generator().manual_seed(seed)
        bound = losses**-0.5
        self.first = nn.utils.skip_init(nn.Linear, losses, hidden)
        nn.init.uniform_(self.first.weight, -bound, bound, generator=own)
        nn.init.uniform_(self.first.bias, -bound, bound, generator=own)
        self.second = nn.utils.skip_init(nn.Linear, hidden, losses)
        nn.init.zeros_(self.second.weight)  # zeros, so that DAO starts from w = 1/n whatever the losses' scale
        nn.init.zeros_(self.second.bias)

    def forward(self, weighed: Tensor, present: Tensor) -> Tensor:
        """w (n,) of [λ_i L_i] (n,); a loss that is not present gets 0 and the others share the whole."""
        logits = self.second(torch.relu(self.first(weighed)))  # (n,)
        free = logits.masked_fill(~present, float("-inf")).softmax(-1)  # (n,)
        count = int(present.sum())
        return present * self.floor + (1.0 - self.floor * count) * free  # (n,)
