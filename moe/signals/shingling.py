"""Shingles of many texts at once, as numbers: the pieces that `moe.data.dedup.shingles` makes one by one.

A million texts take seconds by columns and minutes with a set of strings for each.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from moe.data.dedup import MAX_UNITS, shingle_units

Ints = NDArray[np.int64]
Numbers = NDArray[np.uint64]

_CHUNK = 100_000
"""Texts that are split at once, which bounds the memory."""
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd constant of multiplicative hashing: two shingles share a number once in 2^64."""


@dataclass(frozen=True)
class ShingleSets:
    """Distinct shingles of texts, rarest first, in one array.

    Args:
        ranks: of the shingles by their number of texts, the rarest 0; those of a text are together, in order.
        starts: where each text begins in `ranks` (U + 1,).
        counts: number of texts with each rank.
    """

    ranks: Ints
    starts: Ints
    counts: Ints

    @property
    def sizes(self) -> Ints:
        """Number of distinct shingles of each text (U,)."""
        return np.diff(self.starts)

    @cached_property
    def _keys(self) -> Ints:
        """A number for every text and shingle, increasing."""
        return np.repeat(np.arange(len(self.sizes)), self.sizes) * np.int64(len(self.counts) + 1) + self.ranks

    def shared(self, left: Ints, right: Ints) -> Ints:
        """Return how many shingles the texts of each pair share; `left` and `right` (P,) are indices of texts."""
        sizes = self.sizes[left]
        pairs = np.repeat(np.arange(len(left)), sizes)
        offsets = np.arange(len(pairs)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        wanted = right[pairs] * np.int64(len(self.counts) + 1) + self.ranks[self.starts[left][pairs] + offsets]
        at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
        return np.bincount(pairs[self._keys[at] == wanted], minlength=len(left)).astype(np.int64)

    def jaccard(self, left: Ints, right: Ints) -> NDArray[np.float64]:
        """Return the Jaccard similarity of the texts of each pair (P,)."""
        shared = self.shared(left, right)
        return np.asarray(shared / (self.sizes[left] + self.sizes[right] - shared), float)


def shingle_sets(texts: pa.Array) -> ShingleSets:
    """Return the shingles of texts (U,)."""
    parts = [_hash_pieces(texts.slice(start, _CHUNK).to_pylist()) for start in range(0, len(texts), _CHUNK)]
    pieces = np.concatenate([count for _, count in parts])
    return _rank(np.concatenate([numbers for numbers, _ in parts]), pieces)


def _hash_pieces(texts: Sequence[str]) -> tuple[Numbers, Ints]:
    """Return the number of every piece, text by text, and how many pieces each text has (U,)."""
    split = [shingle_units(text) for text in texts]
    lengths = np.array([len(units) for units, _ in split], np.int64)
    sizes = np.array([size for _, size in split], np.int64)
    encoded = pa.array([unit for units, _ in split for unit in units], pa.large_string()).dictionary_encode()
    words = pd.util.hash_array(encoded.dictionary.to_numpy(zero_copy_only=False).astype(object))
    codes = words[encoded.indices.to_numpy()]
    starts = np.cumsum(lengths) - lengths
    pieces = np.maximum(1, lengths - sizes + 1)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    first = starts[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    end = np.minimum(first + sizes[owner], (starts + lengths)[owner])
    numbers = np.zeros(len(owner), np.uint64)
    for step in range(MAX_UNITS):
        code = np.where(first + step < end, codes[np.minimum(first + step, len(codes) - 1)], np.uint64(0))
        numbers = (numbers ^ code) * _MULTIPLIER
        numbers ^= numbers >> np.uint64(29)
    return numbers, pieces


def _rank(numbers: Numbers, pieces: Ints) -> ShingleSets:
    """Number the shingles by their rarity; sorts in place, since there may be ten million of them."""
    order = np.argsort(numbers)
    new = np.empty(len(order), bool)
    new[:1] = True
    numbers = numbers[order]
    np.not_equal(numbers[1:], numbers[:-1], out=new[1:])
    width = np.int64(new.sum() + 1)
    keys = np.repeat(np.arange(len(pieces)), pieces)[order]  # the text of each shingle
    del order, numbers
    keys *= width
    keys += np.cumsum(new) - 1
    keys = np.unique(keys)  # distinct shingles of each text
    owner, codes = np.divmod(keys, width)
    counts = np.bincount(codes)
    rarest = np.argsort(counts, kind="stable")
    rank = np.empty_like(rarest)
    rank[rarest] = np.arange(len(rarest))
    ranks = owner * width + rank[codes]
    del keys, codes
    ranks.sort()
    ranks %= width
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(pieces)))]).astype(np.int64)
    return ShingleSets(ranks, starts, counts[rarest])
