"""AdaMix (Wang et al. 2022): several copies of an expert's B share one A in training, and their average replaces them.

In every layer, each pass uses one copy drawn at random. The trained expert has the rank and the files of any other.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CopiesOfB(nn.Module):
    """The copies of B of one layer's experts.

    Attributes:
        copies: by expert, a list of (D_out, R).
        draws: what selects a copy, uniform on 0 to 1: one number for all rows, or one for each half of them (R-Drop).
    """

    def __init__(self) -> None:
        super().__init__()
        self.copies = nn.ModuleDict()
        self.draws: tuple[float, ...] = (0.0,)

    def add(self, name: str, b: nn.Parameter, count: int) -> None:
        """Copy B of an expert, which is frozen from now on."""
        self.copies[name] = nn.ParameterList([nn.Parameter(b.detach().clone()) for _ in range(count)])
        b.requires_grad_(False)

    def remove(self, name: str) -> None:
        """Delete the copies of an expert."""
        del self.copies[name]

    def trained(self, name: str, b: nn.Parameter) -> dict[str, nn.Parameter]:
        """Return the copies of an expert's B under `.0`, `.1` and so on; if it has none, B under an empty key."""
        if name not in self.copies:
            return {"": b}
        return {f".{i}": copy for i, copy in enumerate(self.copies[name].parameters())}

    def averages(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the experts that have copies, with the average (D_out, R)."""
        for name, copies in self.copies.items():
            yield name, torch.stack([copy.detach() for copy in copies.parameters()]).mean(0)

    def update(self, product: Tensor, every: Mapping[str, nn.Parameter]) -> Tensor:
        """Multiply `g · s · A x` (…, R) by the copies that were drawn, → (…, D_out).

        Args:
            every: B of the active experts, in the order of the product's columns.
        """
        # Rows that cannot be halved, such as DeBERTa's table of positions, are no texts: they use the first draw.
        draws = self.draws if product.shape[0] % len(self.draws) == 0 else self.draws[:1]
        updates = []
        for draw, rows in zip(draws, product.chunk(len(draws)), strict=True):
            copies = [list(self.trained(name, b).values()) for name, b in every.items()]
            b = torch.cat([each[int(draw * len(each))] for each in copies], 1)  # (D_out, R)
            updates.append(F.linear(rows, b.to(rows.dtype)))
        return torch.cat(updates)


def draw_copies(layers: Sequence[CopiesOfB], seed: int, step: int, passes: int) -> None:
    """Draw the copies of a training step.

    They depend on nothing but seed and step, so that every process, and a resumed stage, draws the same ones.

    Args:
        passes: 2 draws for each half of the rows, 1 for all of them.
    """
    draws = np.random.default_rng((seed, step)).random((len(layers), passes))
    for layer, own in zip(layers, draws.tolist(), strict=True):
        layer.draws = tuple(own)
