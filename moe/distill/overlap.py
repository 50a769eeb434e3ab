"""Unlabelled texts that are near duplicates of validation or test texts."""

from collections.abc import Sequence

from moe.data.dedup import NearDuplicateIndex


def remove_near_duplicates(texts: Sequence[str], held_out: Sequence[str], threshold: float, seed: int) -> list[int]:
    """Return the indices of the texts that are no near duplicate of a held-out one.

    Args:
        threshold: Jaccard similarity from which two texts are near duplicates.
        seed: of the hash functions.
    """
    index = NearDuplicateIndex[int](threshold, seed)
    index.add(enumerate(dict.fromkeys(held_out)))
    return [key for key, matches in index.query(enumerate(texts)) if not matches]
