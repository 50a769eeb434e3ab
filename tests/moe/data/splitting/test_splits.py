"""Splits are stratified and seeded, and no near duplicates are in two splits."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.dedup import jaccard, shingles
from moe.data.splitting.settings import Split, SplitSettings
from moe.data.splitting.splits import (
    RowIndices,
    SplitRows,
    remove_cross_split_duplicates,
    split_by_hash,
    split_rows,
    split_texts,
    stratified_draw,
    text_digest,
)

LABELS = np.array([0] * 600 + [1] * 300 + [2] * 100)
NONE = np.full(1000, -1)
TRAIN, VALIDATION, TEST = 0, 1, 2


def sizes(splits: SplitRows) -> list[int]:
    return [len(splits[name]) for name in ("train", "validation", "test")]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), max_size=60), st.data())
def test_stratified_draw_takes_the_exact_count_and_each_label_by_its_share(
    labels: list[int], data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, len(labels)))
    drawn, left = stratified_draw(np.array(labels, dtype=np.int64), np.arange(len(labels)), count, 3)
    assert len(drawn) == count
    assert sorted([*drawn, *left]) == list(range(len(labels)))
    for label, total in Counter(labels).items():
        taken = sum(labels[row] == label for row in drawn)
        assert abs(taken - total * count / len(labels)) <= 1


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((98, 1, 1), [980, 10, 10]),
        ((60, 20, 20), [600, 200, 200]),
        ((9, 1), [810, 90, 100]),
        ((0.7, 0.1, 0.2), [700, 100, 200]),
    ],
)
def test_split_rows_follows_ratios_exactly_and_by_label(ratios: tuple[float, ...], expected: list[int]) -> None:
    splits = split_rows(LABELS, NONE, SplitSettings(ratios=ratios))
    assert sizes(splits) == expected
    for rows in splits.values():
        assert np.bincount(LABELS[rows], minlength=3) == pytest.approx(len(rows) * np.array([0.6, 0.3, 0.1]), abs=1)


def test_split_rows_depends_on_the_seed() -> None:
    first, repeated, other = (split_rows(LABELS, NONE, SplitSettings(ratios=(9, 1), seed=seed)) for seed in (1, 1, 2))
    assert all((first[name] == repeated[name]).all() for name in first)
    assert set(first["test"]) != set(other["test"])


def own(**counts: int) -> np.ndarray:
    codes = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "none": -1}
    return np.concatenate([np.full(count, codes[name]) for name, count in counts.items()])


def test_split_rows_uses_the_file_s_split_and_trains_on_rows_without_one() -> None:
    codes = own(test=100, train=700, validation=150, none=50)
    splits = split_rows(LABELS, codes, SplitSettings())
    assert sizes(splits) == [750, 150, 100]
    assert (splits["test"] == np.arange(100)).all()


def test_split_rows_takes_a_missing_validation_from_train() -> None:
    splits = split_rows(LABELS, own(train=900, test=100), SplitSettings())
    assert sizes(splits) == [810, 90, 100]
    assert np.bincount(LABELS[splits["validation"]]).tolist() == [60, 30]


def test_split_rows_with_validation_as_test_tests_on_validation() -> None:
    codes = own(train=900, validation=100)
    assert sizes(split_rows(LABELS, codes, SplitSettings())) == [900, 100, 0]
    splits = split_rows(LABELS, codes, SplitSettings(validation_as_test=True))
    assert sizes(splits) == [810, 90, 100]
    assert (splits["test"] == np.arange(900, 1000)).all()


def test_split_rows_of_a_test_file_has_no_train_rows() -> None:
    assert sizes(split_rows(LABELS, own(test=1000), SplitSettings())) == [0, 0, 1000]


def test_split_rows_ignores_the_file_s_split_if_own_is_false() -> None:
    splits = split_rows(LABELS, own(train=900, test=100), SplitSettings(own=False, ratios=(9, 1)))
    assert sizes(splits) == [810, 90, 100]


def deduplicate(texts: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Remove near duplicates of texts by split; return the remaining texts and the counts of removed ones."""
    everything = [text for split_texts in texts.values() for text in split_texts]
    ends = np.cumsum([0, *map(len, texts.values())])
    names = cast(list[Split], list(texts))
    splits: SplitRows = {name: np.arange(low, high) for name, low, high in zip(names, ends, ends[1:], strict=False)}

    def fetch(rows: RowIndices) -> Iterator[str]:
        return (everything[row] for row in rows)

    left, removed = remove_cross_split_duplicates(splits, fetch, 0.85, 13)
    return {name: [everything[row] for row in rows] for name, rows in left.items()}, removed


def test_split_rows_by_folds_tests_every_row_once_by_label() -> None:
    folds = [split_rows(LABELS, NONE, SplitSettings(folds=5, fold=fold)) for fold in range(5)]
    assert sorted(np.concatenate([splits["test"] for splits in folds]).tolist()) == list(range(1000))
    for splits in folds:
        assert sizes(splits) == [720, 80, 200]
        assert np.bincount(LABELS[splits["test"]]).tolist() == [120, 60, 20]
        assert len(set().union(*(set(rows.tolist()) for rows in splits.values()))) == 1000


def test_split_rows_by_folds_ignores_the_file_s_split() -> None:
    own = np.full(1000, TRAIN)
    assert sizes(split_rows(LABELS, own, SplitSettings(folds=4, fold=3))) == [675, 75, 250]


def test_split_rows_refuses_more_folds_than_rows_and_folds_out_of_range() -> None:
    with pytest.raises(Fault, match=r"Lower split\.folds"):
        split_rows(np.array([0, 0, 1]), NONE[:3], SplitSettings(folds=3))
    for invalid in ({"folds": 3, "fold": 3}, {"fold": 1}, {"folds": 1}):
        with pytest.raises(ValidationError):
            SplitSettings.model_validate(invalid)


def test_near_duplicates_of_held_out_texts_are_removed_and_counted() -> None:
    left, removed = deduplicate(
        {
            "train": [
                "Oil falls on supply fears",
                "OIL FALLS, on supply fears",
                "gold is up",
                "利空消息来袭股价大跌",
                "fresh",
            ],
            "validation": ["Gold is up!", "oil falls on supply fears.", "its own text"],
            "test": ["Oil falls on supply fears https://t.co/1", "利空消息来袭，股价大跌"],
        }
    )
    assert left["train"] == ["fresh"]
    assert left["validation"] == ["Gold is up!", "its own text"]
    assert len(left["test"]) == 2
    assert removed == {"train/test": 3, "train/validation": 1, "validation/test": 1}


def test_near_duplicates_within_one_split_stay() -> None:
    left, removed = deduplicate({"train": ["one two three"] * 3, "validation": ["four"], "test": ["five six"] * 2})
    assert [len(texts) for texts in left.values()] == [3, 1, 2]
    assert not any(removed.values())


PHRASES = st.lists(st.sampled_from(["up", "down", "oil", "gold", "fed", "利好", "跌"]), min_size=1, max_size=5).map(
    " ".join
)


@settings(deadline=None, max_examples=40)
@given(*[st.lists(PHRASES, max_size=12)] * 3)
def test_near_duplicates_are_never_in_two_splits_and_test_rows_stay(
    train: list[str], validation: list[str], test: list[str]
) -> None:
    left, removed = deduplicate({"train": train, "validation": validation, "test": test})
    assert left["test"] == test
    for first, second in (("train", "validation"), ("train", "test"), ("validation", "test")):
        pairs = [(shingles(a), shingles(b)) for a in left[first] for b in left[second]]
        assert not any(jaccard(a, b) >= 0.85 for a, b in pairs)
    assert sum(removed.values()) == len(train) + len(validation) - len(left["train"]) - len(left["validation"])


@st.composite
def files(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, the file's own splits and texts of random rows, several of them of one text."""
    rows = draw(st.integers(1, 80))
    source = np.random.default_rng(draw(st.integers(0, 10**6)))
    texts = source.integers(0, max(1, rows // 2), rows)
    _, texts = np.unique(texts, return_inverse=True)
    own = source.integers(-1, 3, rows) if draw(st.booleans()) else np.full(rows, -1)
    return source.integers(-1, 3, rows), own, texts


@given(files(), st.sampled_from([(60, 20, 20), (9, 1), (98, 1, 1), (1, 0, 1)]), st.integers(0, 5))
@settings(max_examples=80, deadline=None)
def test_no_text_is_on_two_sides_and_no_row_is_in_two_splits(
    rows: tuple[np.ndarray, np.ndarray, np.ndarray], ratios: tuple[float, ...], seed: int
) -> None:
    labels, own, texts = rows
    splits, removed = split_texts(labels, own, texts, SplitSettings(ratios=ratios, seed=seed))
    members = np.concatenate([splits[name] for name in splits])
    assert len(members) == len(set(members.tolist())) == len(labels) - removed
    sides = [set(texts[splits[name]].tolist()) for name in ("train", "validation", "test")]
    assert sum(map(len, sides)) == len(set().union(*sides))
    if (own >= 0).any():
        assert set(own[splits["test"]].tolist()) <= {2}, "the file's own split decides"
        assert set(own[splits["train"]].tolist()) <= {-1, 0}
    else:
        assert removed == 0
    assert all(np.all(np.diff(splits[name]) > 0) for name in splits), "in the order of the file"


@given(st.lists(st.text("ab利 ", max_size=4), max_size=60), st.integers(0, 3), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_split_by_hash_does_not_depend_on_other_rows_or_their_order(
    texts: list[str], seed: int, source: random.Random
) -> None:
    options = SplitSettings(ratios=(60, 20, 20), seed=seed, by_text=True)
    side = {texts[row]: name for name, rows in split_by_hash(texts, options).items() for row in rows}
    assert side.keys() == set(texts)
    other = [*texts, "another text"]
    source.shuffle(other)
    for name, rows in split_by_hash(other, options).items():
        assert all(side.get(other[row], name) == name for row in rows)


@pytest.mark.parametrize("ratios", [(60, 20, 20), (9, 1)])
def test_split_by_hash_follows_the_ratios_of_many_texts(ratios: tuple[float, ...]) -> None:
    splits = split_by_hash((f"text {i}" for i in range(20_000)), SplitSettings(ratios=ratios, by_text=True))
    train, *held_out = np.array(ratios) / sum(ratios)
    expected = [train * 0.9, train * 0.1, held_out[0]] if len(held_out) == 1 else [train, *held_out]
    np.testing.assert_allclose(np.array(sizes(splits)) / 20_000, expected, atol=0.01)


def test_digest_depends_on_words_seed_and_purpose_only() -> None:
    assert text_digest("Profit  ROSE") == text_digest("profit rose") == text_digest("ｐｒｏｆｉｔ\trose")
    digests = {text_digest("a"), text_digest("b"), text_digest("a", seed=1), text_digest("a", purpose="test")}
    assert len(digests) == 4


@given(st.lists(st.integers(-1, 3), min_size=1, max_size=60), st.data())
@settings(max_examples=60, deadline=None)
def test_stratified_draw_is_a_partition_with_every_label_within_one_row_of_its_share(
    labels: list[int], data: st.DataObject
) -> None:
    array = np.array(labels)
    count = data.draw(st.integers(0, len(labels)))
    drawn, left = stratified_draw(array, np.arange(len(labels)), count, 3)
    assert len(drawn) == count
    assert sorted([*drawn.tolist(), *left.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        share = (array == label).sum() * count / len(labels)
        assert abs((array[drawn] == label).sum() - share) <= 1
