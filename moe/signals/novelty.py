"""Texts that repeat an earlier text about the same ticker: near-duplicates, which count once.

Two near-duplicates share one of their rarest shingles (prefix filtering: Chaudhuri, Ganti and Kaushik, 2006), so that
few pairs are compared; the Jaccard similarity of those is exact.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from moe.signals.shingling import Ints, ShingleSets, shingle_sets

Flags = NDArray[np.bool_]
_PAIRS = 200_000
"""Pairs that are compared at once, which bounds the memory."""


def find_novel(texts: pa.Array, tickers: Ints, sessions: Ints, threshold: float | None, window: int) -> Flags:
    """Return which texts are new: no near-duplicate about the ticker came before, in the session or `window` back.

    Args:
        texts: in the order of their times (R,).
        tickers: index of the ticker of each (R,).
        sessions: index of the session of each (R,), increasing.
        threshold: Jaccard similarity of shingles from which two texts are near-duplicates; None finds none.
        window: sessions back in which an earlier text counts.
    """
    novel = np.ones(len(texts), bool)
    if threshold is None or len(texts) < 2:
        return novel
    encoded = texts.dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    _mark_equal(novel, codes, tickers, sessions, window)
    _mark_similar(novel, codes, shingle_sets(encoded.dictionary), tickers, sessions, threshold, window)
    return novel


def _mark_equal(novel: Flags, codes: Ints, tickers: Ints, sessions: Ints, window: int) -> None:
    """Mark texts that are equal to an earlier one; the latest earlier one is the nearest."""
    order = np.lexsort((np.arange(len(codes)), codes, tickers))
    same = (np.diff(tickers[order]) == 0) & (np.diff(codes[order]) == 0) & (np.diff(sessions[order]) <= window)
    novel[order[1:][same]] = False


def _mark_similar(
    novel: Flags, codes: Ints, sets: ShingleSets, tickers: Ints, sessions: Ints, threshold: float, window: int
) -> None:
    """Mark texts that share a rare shingle with an earlier one and are similar to it."""
    rows, ranks = _prefix_rows(codes, sets, threshold)
    width = np.int64(len(sets.counts) + 1)
    buckets = tickers[rows] * width + ranks
    order = np.argsort(buckets, kind="stable")  # rows are in the order of time
    rows, buckets = rows[order], buckets[order]
    at, lag = np.arange(len(rows)), 1
    while len(at := at[at >= lag]):
        near = (buckets[at - lag] == buckets[at]) & (sessions[rows[at]] - sessions[rows[at - lag]] <= window)
        at = at[near]
        at = at[novel[rows[at]]]
        later, earlier = rows[at], rows[at - lag]
        sizes = sets.sizes[codes[later]], sets.sizes[codes[earlier]]
        possible = np.minimum(*sizes) >= threshold * np.maximum(*sizes)
        later, earlier = later[possible], earlier[possible]
        for start in range(0, len(later), _PAIRS):
            part = slice(start, start + _PAIRS)
            similar = sets.jaccard(codes[later[part]], codes[earlier[part]]) >= threshold
            novel[later[part][similar]] = False
        lag += 1


def _prefix_rows(codes: Ints, sets: ShingleSets, threshold: float) -> tuple[Ints, Ints]:
    """Return the rarest shingles of every row that a near-duplicate must share one of: rows in order, and ranks."""
    sizes = sets.sizes
    lengths = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    lengths = lengths[codes]
    rows = np.repeat(np.arange(len(codes)), lengths)
    offsets = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ranks = sets.ranks[sets.starts[codes[rows]] + offsets]
    repeated = sets.counts[ranks] > 1
    equal = np.bincount(codes, minlength=len(sizes))[codes[rows]] > 1
    keep = repeated | equal
    return rows[keep], ranks[keep]
