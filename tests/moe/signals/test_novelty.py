"""Claims about near-duplicates: the shingles are those of `moe.data.dedup`, and a repeated text does not count."""

import numpy as np
import pyarrow as pa
import pytest

from moe.data.dedup import jaccard, shingles
from moe.signals.novelty import find_novel
from moe.signals.shingling import shingle_sets

WORDS = (
    "profit",
    "rises",
    "falls",
    "as",
    "Apple",
    "sales",
    "the",
    "of",
    "quarter",
    "third",
    "$AAPL",
    "https://t.co/a1",
)
ODD = [
    "",
    "...",
    "🚀🚀",
    "a b",
    "苹果公司今天宣布利润大幅增长",
    "苹果公司今天宣布利润大幅增长!",
    "Ünïcode, ＦＵＬＬ width",
    "it's 3.5%",
    "Straße ist groß genug",
    "STRASSE IST GROSS GENUG",
]


def made_texts(count: int, seed: int = 0) -> list[str]:
    """Random texts, half of them with a word changed in an earlier one, and odd ones."""
    rng = np.random.default_rng(seed)
    texts = list(ODD)
    for _ in range(count):
        words = list(rng.choice(WORDS, int(rng.integers(1, 14))))
        if rng.random() < 0.5:
            words = texts[int(rng.integers(len(texts)))].split()
            words = [*words, "now"] if rng.random() < 0.5 else words
        texts.append(" ".join(words))
    return texts


def test_shingles_of_all_texts_are_those_of_each_text() -> None:
    texts = made_texts(150)
    sets, pieces = shingle_sets(pa.array(texts)), [shingles(text) for text in texts]
    assert sets.sizes.tolist() == [len(piece) for piece in pieces]
    left, right = (index.ravel() for index in np.indices((len(texts), len(texts))))
    exact = [jaccard(pieces[i], pieces[j]) for i, j in zip(left, right, strict=True)]
    assert np.allclose(sets.jaccard(left, right), exact)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("window", [0, 3])
def test_novel_texts_are_those_without_an_earlier_near_duplicate(threshold: float, window: int) -> None:
    texts, rng = made_texts(300, seed=1), np.random.default_rng(2)
    tickers, sessions = rng.integers(0, 3, len(texts)), np.sort(rng.integers(0, 12, len(texts)))
    pieces = [shingles(text) for text in texts]
    expected = [
        not any(
            tickers[j] == tickers[i]
            and sessions[i] - sessions[j] <= window
            and jaccard(pieces[i], pieces[j]) >= threshold
            for j in range(i)
        )
        for i in range(len(texts))
    ]
    assert 0 < sum(expected) < len(texts)
    assert find_novel(pa.array(texts), tickers, sessions, threshold, window).tolist() == expected


def test_without_a_threshold_every_text_is_novel() -> None:
    zeros = np.zeros(3, int)
    texts = pa.array(["a", "a", "a"])
    assert find_novel(texts, zeros, zeros, None, 5).all()
    assert find_novel(texts, zeros, zeros, 0.85, 5).tolist() == [True, False, False]
