"""Shingles of many texts at once, as numbers, with the same pieces as `moe.data.dedup.shingles` makes one by one.

A million texts take seconds by columns and minutes text by text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_WORDS, _CHARACTERS = 3, 5
_CJK = r"[\x{3040}-\x{30ff}\x{3400}-\x{4dbf}\x{4e00}-\x{9fff}\x{f900}-\x{faff}]"
_LINK, _NO_WORD = r"https?://\S+|www\.\S+", r"[^\p{L}\p{N}_]+"
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


def shingle_sets(texts: Sequence[str]) -> ShingleSets:
    """Return the shingles of texts (U,): pieces of 3 words, or of 5 characters in Chinese."""
    plain = pc.utf8_lower(pc.utf8_normalize(pa.array(texts, pa.string()), form="NFKC"))
    unlinked = pc.replace_substring_regex(plain, _LINK, " ")
    words = pc.utf8_trim_whitespace(pc.replace_substring_regex(unlinked, _NO_WORD, " "))
    words = pc.if_else(pc.equal(words, ""), _without_spaces(plain), words)  # such as a text of emojis only
    letters = pc.utf8_length(pc.replace_substring(words, " ", ""))
    chinese = pc.greater_equal(
        pc.multiply(pc.count_substring_regex(words, _CJK), 3), pc.max_element_wise(letters, pa.scalar(1, pa.int32()))
    )
    characters = pc.utf8_rtrim_whitespace(
        pc.replace_substring_regex(pc.replace_substring(words, " ", ""), r"(?s)(.)", r"\1 ")
    )
    units = pc.split_pattern(pc.if_else(chinese, characters, words), " ")
    sizes = np.where(chinese.to_numpy(zero_copy_only=False), _CHARACTERS, _WORDS)
    return _rank(*_hash_pieces(units, sizes))


def _without_spaces(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, r"\s+", "")


def _hash_pieces(units: pa.Array, sizes: Ints) -> tuple[NDArray[np.uint64], Ints]:
    """Return the number of every piece, and the text of each (increasing)."""
    codes = pc.dictionary_encode(pc.list_flatten(units)).indices.to_numpy().astype(np.uint64) + np.uint64(1)
    lengths = pc.list_value_length(units).to_numpy().astype(np.int64)
    starts = np.cumsum(lengths) - lengths
    pieces = np.maximum(1, lengths - sizes + 1)
    owner = np.repeat(np.arange(len(lengths)), pieces)
    first = starts[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    end = starts[owner] + lengths[owner]
    numbers = np.zeros(len(owner), np.uint64)
    for step in range(_CHARACTERS):
        inside = (first + step < end) & (step < sizes[owner])
        code = np.where(inside, codes[np.minimum(first + step, len(codes) - 1)], np.uint64(0))
        numbers = (numbers ^ code) * _MULTIPLIER
        numbers ^= numbers >> np.uint64(29)
    return numbers, owner


def _rank(numbers: NDArray[np.uint64], owner: Ints) -> ShingleSets:
    _, codes = np.unique(numbers, return_inverse=True)
    texts = int(owner[-1]) + 1 if len(owner) else 0
    keys = np.unique(owner * np.int64(codes.max(initial=0) + 1) + codes)  # distinct shingles of each text
    owner, codes = np.divmod(keys, np.int64(codes.max(initial=0) + 1))
    counts = np.bincount(codes)
    order = np.argsort(counts, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ranked = np.sort(owner * np.int64(len(order) + 1) + rank[codes])
    owner, ranks = np.divmod(ranked, np.int64(len(order) + 1))
    starts = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=texts))]).astype(np.int64)
    return ShingleSets(ranks, starts, counts[order])
