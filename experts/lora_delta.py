"""A LoRA update without its adapter: `scaling · B A` of every layer, at one rank; added up and padded exactly.

Weighing several updates into one is `experts.merge_methods`'s, where they lie beside a backbone
`experts.adapter_bank`'s.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Factors = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class LowRankUpdate:
    """One update of a backbone, `scaling · B A` a layer, of one rank and one scaling throughout.

    Args:
        rank: of every layer (R).
        scaling: of every layer.
        layers: A (R, D_in) and B (D_out, R) by the layer's dotted name.
    """

    rank: int
    scaling: float
    layers: Mapping[str, Factors]

    def widened(self, rank: int) -> "LowRankUpdate":
        """The same update at a larger rank, by rows and columns of zeros."""
        more = rank - self.rank
        assert more >= 0
        return LowRankUpdate(rank, self.scaling, {path: _padded(*ab, more) for path, ab in self.layers.items()})

    def over(self, sizes: Mapping[str, tuple[int, int]]) -> "LowRankUpdate":
        """The same update with zeros for every other layer of these (input and output size by name)."""
        blank = {
            path: (torch.zeros(self.rank, inputs), torch.zeros(outputs, self.rank))
            for path, (inputs, outputs) in sizes.items()
        }
        return LowRankUpdate(self.rank, self.scaling, blank | dict(self.layers))

    def unscaled(self) -> "LowRankUpdate":
        """The same update with its scaling inside B."""
        return LowRankUpdate(self.rank, 1.0, {path: (a, b * self.scaling) for path, (a, b) in self.layers.items()})


def uniform_update(layers: Mapping[str, tuple[Tensor, Tensor, float]]) -> LowRankUpdate:
    """One update of layers that may differ in rank and scaling: ranks padded to the largest, scalings kept if alike.

    Args:
        layers: A (r, D_in), B (D_out, r) and scaling by the layer's name.
    """
    rank = max(a.shape[0] for a, _, _ in layers.values())
    scalings = {scaling for _, _, scaling in layers.values()}
    kept = scalings.pop() if len(scalings) == 1 else 1.0
    factors = {
        path: _padded(a.detach().float(), b.detach().float() * (scaling / kept), rank - a.shape[0])
        for path, (a, b, scaling) in layers.items()
    }
    return LowRankUpdate(rank, kept, factors)


def sum_updates(parts: Sequence[LowRankUpdate]) -> LowRankUpdate:
    """The sum of several updates as one: A above A, B beside B, ranks added. Exact."""
    if len(parts) == 1:
        return parts[0]
    paths = dict.fromkeys(path for one in parts for path in one.layers)
    ready = [one.unscaled() for one in parts]
    return uniform_update({path: _stacked([one.layers[path] for one in ready if path in one.layers]) for path in paths})


def _stacked(parts: Sequence[Factors]) -> tuple[Tensor, Tensor, float]:
    whole_a, whole_b = zip(*parts, strict=True)
    return torch.cat(whole_a), torch.cat(whole_b, 1), 1.0  # (R, D_in), (D_out, R)


def _padded(a: Tensor, b: Tensor, more: int) -> Factors:
    if not more:
        return a, b
    return torch.cat([a, a.new_zeros(more, a.shape[1])]), torch.cat([b, b.new_zeros(len(b), more)], 1)


def peft_tensors(update: LowRankUpdate, prefix: str) -> Iterator[tuple[str, Tensor]]:
    """An update's tensors under the names that PEFT looks for."""
    for path, (a, b) in update.layers.items():
        yield f"{prefix}{path}.lora_A.weight", a
        yield f"{prefix}{path}.lora_B.weight", b


def largest_rank(updates: Iterable[LowRankUpdate]) -> int:
    """The largest rank of several updates."""
    return max(one.rank for one in updates)
