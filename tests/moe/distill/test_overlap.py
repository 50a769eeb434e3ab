"""Unlabelled texts near a held-out text are removed, exactly those, and hashing is left to the few candidates."""

import random

import pytest

from moe.data.dedup import NearDuplicateIndex, jaccard, shingles
from moe.distill.overlap import remove_near_duplicates

WORDS = [f"word{n}" for n in range(400)]
SOURCE = random.Random(0)
HELD_OUT = [" ".join(SOURCE.sample(WORDS, 40)) for _ in range(60)]


def altered(text: str) -> str:
    """The text with a new end, of 0 to 20 words."""
    words, cut = text.split(), SOURCE.randint(20, 40)
    return " ".join([*words[:cut], *SOURCE.sample(WORDS, 40 - cut)])


@pytest.mark.parametrize("threshold", [0.3, 0.55, 0.85, 1.0])
def test_texts_at_the_threshold_are_removed_and_no_others(threshold: float) -> None:
    texts = [*map(altered, HELD_OUT), *(" ".join(SOURCE.sample(WORDS, 40)) for _ in range(60))]
    pieces = [shingles(text) for text in HELD_OUT]
    largest = [max(jaccard(shingles(text), other) for other in pieces) for text in texts]
    expected = [index for index, similarity in enumerate(largest) if similarity < threshold]
    assert 60 <= len(expected) < len(texts)
    assert remove_near_duplicates(texts, HELD_OUT, threshold, seed=13) == expected


def test_case_punctuation_and_links_do_not_matter() -> None:
    texts = ["Fed HOLDS rates! https://t.co/xyz", "Fed cuts rates", "公司净利润大涨", "公司净利润大跌"]
    assert remove_near_duplicates(texts, ["fed holds rates", "公司净利润大涨。"], 0.85, seed=1) == [1, 3]


def test_texts_whose_pieces_are_of_several_held_out_texts_are_kept() -> None:
    first, second = (text.split() for text in HELD_OUT[:2])
    assert remove_near_duplicates([" ".join([*first, *second])], HELD_OUT, 0.85, seed=1) == [0]


def test_no_text_is_hashed_unless_it_could_be_near(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("hashed")

    monkeypatch.setattr(NearDuplicateIndex, "add", fail)
    assert remove_near_duplicates(["rates rose a lot today", "sales fell a bit"], HELD_OUT, 0.85, seed=1) == [0, 1]
    assert remove_near_duplicates(["rates rose"], [], 0.85, seed=1) == [0]
    assert remove_near_duplicates([], HELD_OUT, 0.85, seed=1) == []
    with pytest.raises(AssertionError, match="hashed"):
        remove_near_duplicates(HELD_OUT[:1], HELD_OUT, 0.85, seed=1)
