"""A gate that goes on from another one, with experts more or fewer: which of its rows continue which.

What an expert is, and why it came or went, is not its concern.
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from router.gate import Gate

MAX_INITIAL_WEIGHT = 0.01
"""The most of any text that a newcomer gets at first: enough to learn from, too little to do harm."""
SourceRows = list[tuple[int, int | None]]
"""Rows of the last layer that share a softmax, each with the old row that it continues; None for a newcomer's."""


@torch.no_grad()
def transfer_gate(new: Gate, old: Gate, columns: Sequence[int | None]) -> None:
    """Fill a gate from another one of the same settings.

    Rows of experts and groups that go on are copied, so that their shares keep their proportions to each other. A
    newcomer's row is the mean of those beside it, less a constant: since a mean is never more than the largest, no text
    whatever gives it more than `MAX_INITIAL_WEIGHT` at first.

    Args:
        columns: for each expert of the new gate its column in the old one; None for a newcomer.
    """
    assert len(columns) == new.experts
    last = f"net.{len(new.net) - 1}."
    state, before = new.state_dict(), old.state_dict()
    state |= {name: tensor for name, tensor in before.items() if not name.startswith(last)}
    for rows in _softmaxes(new, old, columns):
        for kind in ("weight", "bias"):
            drop = float(old.temperature) * _margin(rows) if kind == "bias" else 0.0
            _fill(state[last + kind], before[last + kind], rows, drop)
    new.load_state_dict(state)


def _softmaxes(new: Gate, old: Gate, columns: Sequence[int | None]) -> Iterator[SourceRows]:
    """The groups' rows, then the experts' rows group by group."""
    group = new.group.tolist()
    known = {group[e]: int(old.group[column]) for e, column in enumerate(columns) if column is not None}
    yield [(g, known.get(g)) for g in range(new.groups)]
    for g in range(new.groups):
        mine = [(e, columns[e]) for e in range(new.experts) if group[e] == g]
        yield [(new.groups + e, None if column is None else old.groups + column) for e, column in mine]


def _margin(rows: SourceRows) -> float:
    """How far below the others' mean a newcomer starts, so that its share is at most `MAX_INITIAL_WEIGHT`."""
    known = sum(source is not None for _, source in rows)
    return max(0.0, -math.log(MAX_INITIAL_WEIGHT * known)) if known else 0.0


def _fill(target: Tensor, source: Tensor, rows: SourceRows, drop: float) -> None:
    """Rows of a weight (G + E, H) or a bias (G + E,) from the old one's; all newcomers among themselves stay fresh."""
    taken = [row for _, row in rows if row is not None]
    if not taken:
        return
    mean = source[taken].mean(0) - drop  # (H,) or ()
    for row, before in rows:
        target[row] = mean if before is None else source[before]
