"""Near texts are found whatever their case, punctuation and links; far ones are never called near."""

import random

import pytest

from moe.data.dedup import NearDuplicateIndex, is_chinese, jaccard, shingles

WORDS = [f"word{n}" for n in range(400)]


def query(inside: str, asked: str, threshold: float = 0.85) -> bool:
    index = NearDuplicateIndex[int](threshold)
    index.add([(0, inside)])
    return [others for _, others in index.query([(1, asked)])] == [[0]]


def test_english_is_cut_into_three_words_and_chinese_into_five_characters():
    assert shingles("Shares rise, after results!") == {"shares rise after", "rise after results"}
    assert shingles("公司净利润大涨。") == {"公 司 净 利 润", "司 净 利 润 大", "净 利 润 大 涨"}


@pytest.mark.parametrize(
    ("text", "chinese"), [("利好 AAPL", True), ("Apple 苹果 rises", False), ("up", False), ("!", False)]
)
def test_chinese_is_told_by_its_characters(text: str, chinese: bool):
    assert is_chinese(text) is chinese


def test_a_text_shorter_than_a_shingle_is_one_shingle():
    assert shingles("Buy now") == {"buy now"}
    assert shingles("利好") == {"利 好"}
    assert len(shingles("https://t.co/x ?!")) == len(shingles("...")) == 1


def test_a_link_punctuation_and_case_make_no_other_text():
    assert near("Fed holds rates. https://t.co/abc", "FED HOLDS RATES! https://t.co/xyz")
    assert not near("Fed holds rates", "Fed cuts rates")


def test_jaccard_is_shared_pieces_over_all():
    assert jaccard(frozenset("abcd"), frozenset("bcde")) == 3 / 5


def test_a_long_text_with_a_changed_end_is_near_and_with_a_changed_half_is_not():
    text = WORDS[:60]
    assert near(" ".join(text), " ".join([*text[:-2], "other", "end"]))
    assert not near(" ".join(text), " ".join(text[:30] + WORDS[100:130]))


@pytest.mark.parametrize("threshold", [0.3, 0.6, 0.85, 0.95])
def test_every_pair_at_the_threshold_is_found_and_none_below_it(threshold: float):
    dice = random.Random(0)
    texts = [dice.sample(WORDS, 40) for _ in range(60)]
    altered = [text[: (cut := dice.randint(5, 40))] + dice.sample(WORDS, 40 - cut) for text in texts]
    index = NearDuplicateIndex[int](threshold)
    index.add((n, " ".join(text)) for n, text in enumerate(texts))
    found = {key: set(others) for key, others in index.query((n, " ".join(text)) for n, text in enumerate(altered))}
    pieces = [shingles(" ".join(text)) for text in texts]
    for key, text in enumerate(altered):
        own = shingles(" ".join(text))
        assert found[key] == {n for n, other in enumerate(pieces) if jaccard(own, other) >= threshold}


def test_kept_texts_are_asked_against_those_before_them():
    asked = NearDuplicateIndex[int](0.85).query(
        enumerate(["one two three", "One two three.", "another text here"]), insert_new=True
    )
    assert [others for _, others in asked] == [[], [0], []]
