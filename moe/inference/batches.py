"""Batches of texts: of similar length, and of texts that keep the same experts as far as that is cheaper."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

Outputs = dict[str, np.ndarray]
"""Outputs of a batch, by name."""
ForwardRows = Callable[[np.ndarray, Sequence[np.ndarray]], tuple[list[np.ndarray], list[Outputs]]]
CPU_TOKEN_BUDGET = 1024
"""Tokens per batch in fp32 that fit a CPU's caches; also the smallest default budget."""
BATCH_OVERHEAD = 1 / 16
"""Cost of a batch besides its tokens, as a share of the token budget: 64 tokens of 1,024 on a CPU."""
HELD_BATCHES = 64
"""Batches whose texts are grouped by experts together; until then their states after the trunk are held, those of at
most 65,536 tokens in fp32 on a CPU."""
MOST_BY_EXPERTS = 4096
"""Texts that are grouped by experts together, unless the token budget alone allows more."""
FOLD_TOKENS = 1024
"""Tokens that keep one expert for whose sake its weights are folded."""


def batch_by_tokens(lengths: Sequence[int] | np.ndarray, tokens: int) -> list[np.ndarray]:
    """Group rows of similar length into batches that hold at most `tokens` tokens each, padding included.

    A row that is longer than the budget is a batch by itself.

    Args:
        lengths: length of each row in tokens (N,).
        tokens: token budget of a batch.

    Returns:
        Row indices of each batch, in order of length.
    """
    order = np.argsort(lengths, kind="stable")  # (N,)
    cuts, start = [], 0
    for position, row in enumerate(order):
        if position > start and (position - start + 1) * lengths[row] > tokens:
            cuts.append(position)
            start = position
    return np.split(order, cuts)


def forward_in_groups(batches: Sequence[np.ndarray], forward: ForwardRows) -> tuple[list[np.ndarray], list[Outputs]]:
    """Run rows by `HELD_BATCHES` batches at a time, so that the states that they hold fit into memory.

    Args:
        batches: row indices of each batch.
        forward: takes rows (n,) and batches of their indices, and returns the batches that were run, and their outputs.

    Returns:
        Row indices and outputs of each batch that was run.
    """
    planned, outputs = list[np.ndarray](), list[Outputs]()
    for start in range(0, len(batches), HELD_BATCHES):
        group = batches[start : start + HELD_BATCHES]
        rows, ends = np.concatenate(group), np.cumsum([len(batch) for batch in group])  # (n,), (batches,)
        parts, values = forward(rows, np.split(np.arange(len(rows)), ends[:-1]))
        planned += [rows[part] for part in parts]
        outputs += values
    return planned, outputs


def chunk_size_for(batch_tokens: int, by_experts: bool = False) -> int:
    """Number of texts sorted by length together, for a token budget of a batch; it bounds how far a stream is read.

    Args:
        by_experts: texts are also grouped by the experts that they keep, which takes more texts to fill batches.
    """
    size = max(1, batch_tokens // 2)
    return max(size, min(4 * size, MOST_BY_EXPERTS)) if by_experts else size


@dataclass(frozen=True)
class ExpertBatch:
    """Texts to run in one batch.

    Args:
        rows: their indices (B,).
        experts: columns of the experts to compute. A single one has all the weight in every text; none leaves the
            choice to the pass.
    """

    rows: np.ndarray
    experts: tuple[int, ...]


def plan_batches(
    lengths: np.ndarray, active: np.ndarray, costs: np.ndarray, folded: Sequence[bool], tokens: int
) -> list[ExpertBatch]:
    """Group texts by the set of experts that they keep, then by length, each group as `cheapest_batches` does.

    A set has batches of its own if they cost less, their padding included, than its texts do in the batches of all
    other texts, which compute every expert that one of their texts keeps.

    Args:
        lengths: length of each text in tokens (N,).
        active: (N, E) bool, experts with a weight.
        costs: cost of computing each expert beside the backbone, as a share of the backbone's (E,).
        folded: for each expert whether a batch that keeps only this one costs nothing extra.
        tokens: token budget of a batch.
    """
    sets, of_text = np.unique(active, axis=0, return_inverse=True)  # (S, E), (N,)
    own, rest = [], []
    for index, experts in enumerate(sets):
        rows = np.flatnonzero(of_text == index)  # (n,)
        batches = [rows[part] for part in cheapest_batches(lengths[rows], tokens)]
        columns = tuple(np.flatnonzero(experts).tolist())
        extra = 0.0 if len(columns) == 1 and folded[columns[0]] else float(costs[experts].sum())
        alone = sum(len(batch) * lengths[batch].max() + tokens * BATCH_OVERHEAD for batch in batches) * (1 + extra)
        together = lengths[rows].sum() * (1 + BATCH_OVERHEAD) * (1 + costs[active.any(0)].sum())
        if len(sets) == 1 or alone <= together:
            own += [ExpertBatch(batch, columns) for batch in batches]
        else:
            rest.append(rows)
    return own + list(_mixed_batches(lengths, active, rest, tokens))


def cheapest_batches(lengths: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Group texts of similar length into the batches that cost least: their tokens, padding included, and overhead.

    Few texts of different lengths waste more tokens in one batch of the whole budget than several batches cost.

    Args:
        lengths: length of each text in tokens (N,).
        tokens: token budget of a batch; a longer text is a batch by itself.

    Returns:
        Row indices of each batch, in order of length.
    """
    order = np.argsort(lengths, kind="stable")  # (N,)
    costs, starts = np.zeros(len(order) + 1), np.zeros(len(order) + 1, dtype=int)  # (N + 1,), of the first n texts
    for end in range(1, len(order) + 1):
        longest = max(1, int(lengths[order[end - 1]]))
        first = max(0, end - max(1, tokens // longest))
        totals = costs[first:end] + np.arange(end - first, 0, -1) * longest + tokens * BATCH_OVERHEAD
        best = int(totals.argmin())
        costs[end], starts[end] = totals[best], first + best
    cuts, end = [], len(order)
    while end:
        end = int(starts[end])
        cuts.append(end)
    return np.split(order, sorted(cuts)[1:])


def _mixed_batches(
    lengths: np.ndarray, active: np.ndarray, parts: Sequence[np.ndarray], tokens: int
) -> Iterator[ExpertBatch]:
    if parts:
        rows = np.concatenate(parts)  # (n,)
        for part in cheapest_batches(lengths[rows], tokens):
            batch = rows[part]
            experts = tuple(np.flatnonzero(active[batch].any(0)).tolist())
            is_constant = len(experts) > 1 or bool(active[batch].any(1).all())
            yield ExpertBatch(batch, experts if is_constant else ())
