"""Near duplicates are found whatever their case, punctuation and links; other texts are never called near."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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


@given(st.lists(st.sampled_from(WORDS[:12]), min_size=1, max_size=14), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_shingles_do_not_depend_on_case_punctuation_width_and_links(words: list[str], source: random.Random) -> None:
    plain = " ".join(words)
    varied = "  ".join(source.choice((word, word.upper(), f"({word})", f"{word},")) for word in words)
    assert shingles(varied) == shingles(f"{plain} https://t.co/{source.random()}") == shingles(plain)
    assert shingles("".join(chr(ord(letter) + 0xFEE0) if letter.isalnum() else letter for letter in plain)) == shingles(
        plain
    )


@given(st.lists(st.integers(0, 6), min_size=1, max_size=10), st.lists(st.integers(0, 6), min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_similarity_is_symmetric_and_1_for_equal_pieces_only(first: list[int], second: list[int]) -> None:
    left, right = (shingles(" ".join(WORDS[i] for i in indices)) for indices in (first, second))
    assert 0 <= jaccard(left, right) == jaccard(right, left) <= 1
    assert (jaccard(left, right) == 1) is (left == right)
    assert jaccard(left, left) == 1


@pytest.mark.parametrize("seed", range(4))
def test_index_finds_the_pairs_that_a_comparison_of_all_texts_finds(seed: int) -> None:
    source = random.Random(seed)
    texts: list[str] = []
    for _ in range(30):
        words = source.sample(WORDS, 25)
        texts.append(" ".join(words))
        for _ in range(2):
            copy = list(words)
            for at in source.sample(range(25), source.randint(0, 3)):
                copy[at] = source.choice(WORDS)
            texts.append(" ".join(copy))
    pieces = [shingles(text) for text in texts]
    pairs = {(i, j) for i in range(len(texts)) for j in range(i) if jaccard(pieces[i], pieces[j]) >= 0.6}
    index = NearDuplicateIndex[int](0.6, seed)
    matched: set[tuple[int, int]] = set()
    for i, text in enumerate(texts):
        ((_, others),) = index.query([(i, text)])
        matched |= {(i, j) for j in others}
        index.add([(i, text)])
    assert pairs
    assert matched == pairs


def test_query_of_an_empty_index_finds_nothing() -> None:
    assert list(NearDuplicateIndex[int](0.85).query([(0, "profit rose today")])) == [(0, [])]
    assert list(NearDuplicateIndex[int](0.85).query([])) == []
