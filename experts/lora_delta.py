"""LoRA updates independent of an adapter: `scaling · B A` per layer at one rank, with exact sums and padding."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LowRankUpdate:
    """An update of a backbone's weights, `scaling · B A` per layer, with one rank and one scaling for all layers.

    Args:
        rank: rank in every layer (R).
        scaling: scaling in every layer.
        layers: A (R, D_in) and B (D_out, R) by the layer's dotted name.
    """

    rank: int
    scaling: float
    layers: Mapping[str, Factors]

    def padded_to(self, rank: int) -> "LowRankUpdate":
        """Return the same update at a higher rank, padded with zeros."""
        extra = rank - self.rank
        assert extra >= 0
        return LowRankUpdate(rank, self.scaling, {path: _pad(a, b, extra) for path, (a, b) in self.layers.items()})

    def compressed_to(self, rank: int) -> "LowRankUpdate":
        """Return the closest update of at most this rank (truncated SVD), or the same update if its rank is no higher.

        The singular values are shared evenly between A and B.
        """
        if rank >= self.rank:
            return self
        return LowRankUpdate(rank, self.scaling, {path: _truncate(a, b, rank) for path, (a, b) in self.layers.items()})

    def with_zero_layers(self, sizes: Mapping[str, tuple[int, int]]) -> "LowRankUpdate":
        """Return the same update extended by zeros to more layers.

        Args:
            sizes: input and output size of each layer by name; layers that have an update keep it.
        """
        zeros = {
            path: (torch.zeros(self.rank, inputs), torch.zeros(outputs, self.rank))
            for path, (inputs, outputs) in sizes.items()
        }
        return LowRankUpdate(self.rank, self.scaling, zeros | dict(self.layers))

    def with_unit_scaling(self) -> "LowRankUpdate":
        """Return the same update with scaling 1, the scaling multiplied into B."""
        return LowRankUpdate(self.rank, 1.0, {path: (a, b * self.scaling) for path, (a, b) in self.layers.items()})


def uniform_update(layers: Mapping[str, tuple[Tensor, Tensor, float]]) -> LowRankUpdate:
    """Combine layers of different rank and scaling into one update.

    Ranks are padded to the largest. A scaling that all layers share is preserved; otherwise it is multiplied into B.

    Args:
        layers: A (r, D_in), B (D_out, r) and scaling by the layer's name.
    """
    rank = max(a.shape[0] for a, _, _ in layers.values())
    scalings = {scaling for _, _, scaling in layers.values()}
    common = scalings.pop() if len(scalings) == 1 else 1.0
    factors = {
        path: _pad(a.detach().float(), b.detach().float() * (scaling / common), rank - a.shape[0])
        for path, (a, b, scaling) in layers.items()
    }
    return LowRankUpdate(rank, common, factors)


def sum_updates(updates: Sequence[LowRankUpdate]) -> LowRankUpdate:
    """Return the exact sum of updates, by concatenating their factors along the rank."""
    if len(updates) == 1:
        return updates[0]
    paths = dict.fromkeys(path for update in updates for path in update.layers)
    unscaled = [update.with_unit_scaling() for update in updates]
    return uniform_update(
        {path: _concatenate([update.layers[path] for update in unscaled if path in update.layers]) for path in paths}
    )


def _concatenate(factors: Sequence[Factors]) -> tuple[Tensor, Tensor, float]:
    all_a, all_b = zip(*factors, strict=True)
    return torch.cat(all_a), torch.cat(all_b, 1), 1.0  # (R, D_in), (D_out, R)


def _truncate(a: Tensor, b: Tensor, rank: int) -> Factors:
    """Return factors (rank, D_in) and (D_out, rank) of the truncated SVD of B A, without forming it."""
    q_b, r_b = torch.linalg.qr(b)  # (D_out, R), (R, R)
    q_a, r_a = torch.linalg.qr(a.T)  # (D_in, R), (R, R)
    u, values, v = torch.linalg.svd(r_b @ r_a.T)  # (R, R), (R,), (R, R)
    roots = values[:rank].sqrt()  # (rank,)
    return (v[:rank] * roots[:, None]) @ q_a.T, (q_b @ u[:, :rank]) * roots


def _pad(a: Tensor, b: Tensor, extra: int) -> Factors:
    if not extra:
        return a, b
    return torch.cat([a, a.new_zeros(extra, a.shape[1])]), torch.cat([b, b.new_zeros(len(b), extra)], 1)


def peft_tensors(update: LowRankUpdate, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """Yield an update's tensors under PEFT's names."""
    for path, (a, b) in update.layers.items():
        yield f"{prefix}{path}.lora_A.weight", a
        yield f"{prefix}{path}.lora_B.weight", b


def largest_rank(updates: Iterable[LowRankUpdate]) -> int:
    """Return the largest rank among updates."""
    return max(update.rank for update in updates)
