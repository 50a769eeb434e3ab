"""Near duplicates are found whatever their case, punctuation and links; other texts are never called near."""

import random

import pytest

from moe.data.dedup import NearDuplicateIndex, is_chinese, jaccard, shingles

WORDS = [f"word{n}" for n in range(400)]


def near(first: str, second: str, threshold: float = 0.85) -> bool:
    index = NearDuplicateIndex[int](threshold)
    index.add([(0, first)])
    return [others for _, others in index.query([(1, second)])] == [[0]]


def test_shingles_are_three_words_in_english_and_five_characters_in_chinese() -> None:
    assert shingles("Shares rise, after results!") == {"shares rise after", "rise after results"}
    assert shingles("公司净利润大涨。") == {"公 司 净 利 润", "司 净 利 润 大", "净 利 润 大 涨"}


@pytest.mark.parametrize(
    ("text", "chinese"), [("利好 AAPL", True), ("Apple 苹果 rises", False), ("up", False), ("!", False)]
)
def test_is_chinese_counts_characters(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese


def test_shingles_of_a_short_text_are_one() -> None:
    assert shingles("Buy now") == {"buy now"}
    assert shingles("利好") == {"利 好"}
    assert len(shingles("https://t.co/x ?!")) == len(shingles("...")) == 1


def test_near_duplicates_ignore_links_punctuation_and_case() -> None:
    assert near("Fed holds rates. https://t.co/abc", "FED HOLDS RATES! https://t.co/xyz")
    assert not near("Fed holds rates", "Fed cuts rates")


def test_jaccard_is_shared_over_all_pieces() -> None:
    assert jaccard(frozenset("abcd"), frozenset("bcde")) == 3 / 5


def test_near_duplicates_may_differ_in_their_end_but_not_in_half() -> None:
    text = WORDS[:60]
    assert near(" ".join(text), " ".join([*text[:-2], "other", "end"]))
    assert not near(" ".join(text), " ".join(text[:30] + WORDS[100:130]))


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.85, 0.95])
def test_query_finds_every_pair_at_the_threshold_and_none_below(threshold: float) -> None:
    rng = random.Random(0)
    texts = [rng.sample(WORDS, 40) for _ in range(60)]
    altered = [text[: (cut := rng.randint(5, 40))] + rng.sample(WORDS, 40 - cut) for text in texts]
    index = NearDuplicateIndex[int](threshold)
    index.add((n, " ".join(text)) for n, text in enumerate(texts))
    matches = {key: set(others) for key, others in index.query((n, " ".join(text)) for n, text in enumerate(altered))}
    pieces = [shingles(" ".join(text)) for text in texts]
    for key, text in enumerate(altered):
        own = shingles(" ".join(text))
        assert matches[key] == {n for n, other in enumerate(pieces) if jaccard(own, other) >= threshold}


def test_query_with_insert_new_compares_with_earlier_texts() -> None:
    results = NearDuplicateIndex[int](0.85).query(
        enumerate(["one two three", "One two three.", "another text here"]), insert_new=True
    )
    assert [others for _, others in results] == [[], [0], []]
