"""Removal of unlabelled texts that repeat a validation or test text."""

from collections.abc import Sequence

from moe.data.dedup import NearDuplicateIndex, shingles


def remove_near_duplicates(texts: Sequence[str], held_out: Sequence[str], threshold: float, seed: int) -> list[int]:
    """Return the indices of the texts that are no near duplicate of a held-out text, in ascending order.

    A text of which a smaller share than the threshold occurs in the held-out texts together cannot be near one of them.
    Only the others, usually few, are hashed and compared.

    Args:
        texts: unlabelled texts (N). They are not compared with each other.
        held_out: validation and test texts.
        threshold: Jaccard similarity from which two texts are near duplicates, above 0 and at most 1, see
            `moe.data.dedup`.
        seed: of the hash functions.
    """
    pieces = frozenset[str]().union(*map(shingles, held_out))
    candidates = [
        (index, text) for index, text in enumerate(texts) if _covered_share(shingles(text), pieces) >= threshold
    ]
    if not candidates:
        return list(range(len(texts)))
    near = NearDuplicateIndex[int](threshold, seed)
    near.add(enumerate(held_out))
    duplicates = {index for index, others in near.query(candidates) if others}
    return [index for index in range(len(texts)) if index not in duplicates]


def _covered_share(own: frozenset[str], pieces: frozenset[str]) -> float:
    """Share of a text's shingles that are among others; at least its Jaccard similarity with any text of these."""
    return len(own & pieces) / len(own)
