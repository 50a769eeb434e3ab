"""Initialization of a gate from another one with more or fewer experts."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from router.gate import Gate

MAX_INITIAL_WEIGHT = 0.01
"""Largest initial weight of a new expert on any text: enough to receive a gradient, too little to change results."""
SourceRows = list[tuple[int, int | None]]
"""Rows of the last layer that share a softmax, each with the row of the old gate that it copies; None if new."""


@torch.no_grad()
def transfer_gate(new: Gate, old: Gate, columns: Sequence[int | None], *, cap: bool = True) -> None:
    """Initialize a gate from another one with the same settings.

    Rows of experts and groups that remain are copied, which preserves the ratios of their weights. The row of a new
    expert is the mean of the copied rows of its softmax, minus a constant: a mean never exceeds the maximum, so the new
    expert's weight is at most `MAX_INITIAL_WEIGHT` on every text.

    Args:
        new: the gate to fill.
        old: the gate to copy from.
        columns: for each expert of the new gate its column in the old one; None for a new expert.
        cap: subtract the constant; False for a new expert to whose texts a prior of its own leads.
    """
    assert len(columns) == new.num_experts
    last = f"net.{len(new.net) - 1}."
    state, old_state = new.state_dict(), old.state_dict()
    state |= {name: tensor for name, tensor in old_state.items() if not name.startswith((last, "prior."))}
    for rows in _softmax_rows(new, old, columns):
        for kind in ("weight", "bias"):
            margin = float(old.temperature) * _new_expert_margin(rows) if kind == "bias" and cap else 0.0
            _fill_rows(state[last + kind], old_state[last + kind], rows, margin)
    new.load_state_dict(state)
    if new.prior is not None and old.prior is not None:
        new.prior.transfer(old.prior, columns)


def _softmax_rows(new: Gate, old: Gate, columns: Sequence[int | None]) -> Iterator[SourceRows]:
    """Yield the rows of the groups, then the rows of the experts group by group."""
    group = new.group.tolist()
    old_groups = {group[e]: int(old.group[column]) for e, column in enumerate(columns) if column is not None}
    yield [(g, old_groups.get(g)) for g in range(new.num_groups)]
    for g in range(new.num_groups):
        experts = [(e, columns[e]) for e in range(new.num_experts) if group[e] == g]
        yield [(new.num_groups + e, None if column is None else old.num_groups + column) for e, column in experts]


def _new_expert_margin(rows: SourceRows) -> float:
    """Return how far below the others' mean logit a new expert must start to stay under `MAX_INITIAL_WEIGHT`."""
    known = sum(source is not None for _, source in rows)
    return max(0.0, -math.log(MAX_INITIAL_WEIGHT * known)) if known else 0.0


def _fill_rows(target: Tensor, source: Tensor, rows: SourceRows, margin: float) -> None:
    """Fill rows of a weight (G + E, H) or bias (G + E,) from the old gate; without copied rows nothing changes."""
    copied = [old_row for _, old_row in rows if old_row is not None]
    if not copied:
        return
    mean = source[copied].mean(0) - margin  # (H,) or ()
    for row, old_row in rows:
        target[row] = mean if old_row is None else source[old_row]
