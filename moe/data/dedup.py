"""Near-duplicate texts: shingles, candidates by MinHash, and their exact Jaccard similarity."""

import math
import re
import unicodedata
import zlib
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from datasketch import MinHash, MinHashLSH

Key = TypeVar("Key", bound=Hashable)

_WORDS, MAX_UNITS = 3, 5
_PERMUTATIONS = 128
_MISS_RATE = 1e-6
_BATCH = 1024
_LINK = re.compile(r"https?://\S+|www\.\S+")
_WORD = re.compile(r"\w+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def is_chinese(text: str) -> bool:
    """Whether at least a third of the letters are Han or kana, so that words are not separated by spaces."""
    return 3 * len(_CJK.findall(text)) >= max(1, sum(map(len, _WORD.findall(text))))


def shingle_units(text: str) -> tuple[list[str], int]:
    """Return the text's words, or in Chinese its characters, and how many of them make a shingle: 3, or 5.

    Case, punctuation, full-width forms and links are ignored, so that one story with two short links is one text.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(_LINK.sub(" ", plain)) or [plain.strip()]
    joined = "".join(words)
    return (list(joined), MAX_UNITS) if is_chinese(joined) else (words, _WORDS)


def shingles(text: str) -> frozenset[str]:
    """Return the text's overlapping pieces of consecutive units; a shorter text is one piece."""
    units, size = shingle_units(text)
    return frozenset(" ".join(units[at : at + size]) for at in range(max(1, len(units) - size + 1)))


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Jaccard similarity of two sets, neither of them empty."""
    shared = len(left & right)
    return shared / (len(left) + len(right) - shared)


class NearDuplicateIndex(Generic[Key]):
    """Index of texts that finds near duplicates of a text.

    Candidates come from MinHash with locality-sensitive hashing (datasketch), with bands such that a pair at the
    threshold is missed once in a million; the similarity of each candidate is then computed exactly.

    Args:
        threshold: Jaccard similarity from which two texts are near duplicates.
        seed: of the hash functions.
    """

    def __init__(self, threshold: float, seed: int = 1) -> None:
        self.threshold, self._seed = threshold, seed
        self._index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
        self._shingles: dict[Key, frozenset[str]] = {}

    def add(self, keyed: Iterable[tuple[Key, str]]) -> None:
        """Add texts, each under a unique key."""
        for key, pieces, sketch in self._sketch(keyed):
            self._insert(key, pieces, sketch)

    def query(self, keyed: Iterable[tuple[Key, str]], insert_new: bool = False) -> Iterator[tuple[Key, list[Key]]]:
        """Yield the key of each text and the keys of its near duplicates in the index, in the given order.

        Args:
            keyed: texts with their keys.
            insert_new: add a text without near duplicates to the index before the next text is queried.
        """
        for key, pieces, sketch in self._sketch(keyed):
            candidates = self._index.query(sketch) if self._shingles else []
            matches = [other for other in candidates if jaccard(pieces, self._shingles[other]) >= self.threshold]
            if insert_new and not matches:
                self._insert(key, pieces, sketch)
            yield key, matches

    def _insert(self, key: Key, pieces: frozenset[str], sketch: MinHash) -> None:
        self._shingles[key] = pieces
        self._index.insert(key, sketch, check_duplication=False)

    def _sketch(self, keyed: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, frozenset[str], MinHash]]:
        stream = ((key, shingles(text)) for key, text in keyed)
        while batch := list(islice(stream, _BATCH)):
            encoded = [[piece.encode() for piece in pieces] for _, pieces in batch]
            sketches = MinHash.generator(encoded, num_perm=_PERMUTATIONS, seed=self._seed, hashfunc=zlib.crc32)
            yield from ((key, pieces, sketch) for (key, pieces), sketch in zip(batch, sketches, strict=True))


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows per band: the longest bands (fewest false candidates) that rarely miss a pair at the threshold."""
    for rows in range(_PERMUTATIONS // 2, 0, -1):
        bands = _PERMUTATIONS // rows
        if bands * math.log1p(-min(threshold**rows, 1 - 1e-12)) <= math.log(_MISS_RATE):
            return bands, rows
    return _PERMUTATIONS, 1
