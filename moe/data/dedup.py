"""Which texts are nearly the same: shingles, MinHash to find candidates, exact Jaccard to be sure.

Which of two near texts has to go is left to `split`.
"""

import math
import re
import unicodedata
import zlib
from collections.abc import Hashable, Iterable, Iterator
from itertools import islice
from typing import Generic, TypeVar

from datasketch import MinHash, MinHashLSH

Key = TypeVar("Key", bound=Hashable)

_WORDS, _CHARACTERS = 3, 5
_PERMUTATIONS = 128
_MISSED = 1e-6
_BATCH = 1024
_LINK = re.compile(r"https?://\S+|www\.\S+")
_WORD = re.compile(r"\w+")
_CJK = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")


def is_chinese(text: str) -> bool:
    """Whether a third or more of the letters are Han or kana, so that words have no spaces between them."""
    return 3 * len(_CJK.findall(text)) >= max(1, sum(map(len, _WORD.findall(text))))


def shingles(text: str) -> frozenset[str]:
    """The text's overlapping pieces: 3 words, or 5 characters in Chinese; all of it where it is shorter.

    Case, punctuation, full width and links do not count, so that one story with two short links is one text.
    """
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _WORD.findall(_LINK.sub(" ", plain)) or [plain.strip()]
    run = "".join(words)
    units, size = (list(run), _CHARACTERS) if is_chinese(run) else (words, _WORDS)
    return frozenset(" ".join(units[at : at + size]) for at in range(max(1, len(units) - size + 1)))


def jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    """Shared pieces over all pieces; neither may be empty."""
    shared = len(one & other)
    return shared / (len(one) + len(other) - shared)


class NearDuplicateIndex(Generic[Key]):
    """Texts that can be asked whether one is near another.

    Candidates come by MinHash and locality-sensitive hashing (datasketch), banded so that a pair at the threshold is
    missed once in a million; each is then measured exactly.

    Args:
        threshold: Jaccard similarity from which two texts are near.
        seed: of the hash functions.
    """

    def __init__(self, threshold: float, seed: int = 1) -> None:
        self.threshold, self._seed = threshold, seed
        self._index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
        self._shingles: dict[Key, frozenset[str]] = {}

    def add(self, keyed: Iterable[tuple[Key, str]]) -> None:
        """Put texts in, each under a key of its own."""
        for key, pieces, sketch in self._sketched(keyed):
            self._insert(key, pieces, sketch)

    def query(self, keyed: Iterable[tuple[Key, str]], insert_new: bool = False) -> Iterator[tuple[Key, list[Key]]]:
        """For each text asked about, its key and the keys of the texts inside that are near, in the order given.

        With `insert_new`, a text that is near none is put in before the next is asked about.
        """
        for key, pieces, sketch in self._sketched(keyed):
            candidates = self._index.query(sketch) if self._shingles else []
            found = [other for other in candidates if jaccard(pieces, self._shingles[other]) >= self.threshold]
            if insert_new and not found:
                self._insert(key, pieces, sketch)
            yield key, found

    def _insert(self, key: Key, pieces: frozenset[str], sketch: MinHash) -> None:
        self._shingles[key] = pieces
        self._index.insert(key, sketch, check_duplication=False)

    def _sketched(self, keyed: Iterable[tuple[Key, str]]) -> Iterator[tuple[Key, frozenset[str], MinHash]]:
        stream = ((key, shingles(text)) for key, text in keyed)
        while batch := list(islice(stream, _BATCH)):
            pieces = [[piece.encode() for piece in one] for _, one in batch]
            sketches = MinHash.generator(pieces, num_perm=_PERMUTATIONS, seed=self._seed, hashfunc=zlib.crc32)
            yield from ((key, one, sketch) for (key, one), sketch in zip(batch, sketches, strict=True))


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows of the hash: the longest bands, so the fewest false candidates, that rarely miss a true pair."""
    for rows in range(_PERMUTATIONS // 2, 0, -1):
        bands = _PERMUTATIONS // rows
        if bands * math.log1p(-min(threshold**rows, 1 - 1e-12)) <= math.log(_MISSED):
            return bands, rows
    return _PERMUTATIONS, 1
