"""Splits are stratified, the same for the same seed, and no text stands on two sides."""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from experts.errors import Fault
from moe.data.dedup import jaccard, shingles
from moe.data.schema import SplitSettings
from moe.data.splits import RowIndices, SplitRows, remove_cross_split_duplicates, split_rows, stratified_draw

LABELS = np.array([0] * 600 + [1] * 300 + [2] * 100)
NONE = np.full(1000, -1)
TRAIN, VALIDATION, TEST = 0, 1, 2


def sizes(parts: SplitRows) -> list[int]:
    return [len(parts[name]) for name in ("train", "validation", "test")]


@settings(deadline=None)
@given(st.lists(st.integers(-1, 3), max_size=60), st.data())
def test_a_draw_takes_the_count_asked_and_each_label_by_its_share(labels: list[int], data: st.DataObject):
    count = data.draw(st.integers(0, len(labels)))
    drawn, left = stratified_draw(np.array(labels, dtype=np.int64), np.arange(len(labels)), count, 3)
    assert len(drawn) == count
    assert sorted([*drawn, *left]) == list(range(len(labels)))
    for label, held in Counter(labels).items():
        taken = sum(labels[row] == label for row in drawn)
        assert abs(taken - held * count / len(labels)) <= 1


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ((98, 1, 1), [980, 10, 10]),
        ((60, 20, 20), [600, 200, 200]),
        ((9, 1), [810, 90, 100]),
        ((0.7, 0.1, 0.2), [700, 100, 200]),
    ],
)
def test_ratios_part_the_rows_exactly_and_by_label(ratios: tuple[float, ...], expected: list[int]):
    parts = split_rows(LABELS, NONE, SplitSettings(ratios=ratios))
    assert sizes(parts) == expected
    for rows in parts.values():
        assert np.bincount(LABELS[rows], minlength=3) == pytest.approx(len(rows) * np.array([0.6, 0.3, 0.1]), abs=1)


def test_the_same_seed_draws_the_same_rows_and_another_draws_others():
    once, again, other = (split_rows(LABELS, NONE, SplitSettings(ratios=(9, 1), seed=seed)) for seed in (1, 1, 2))
    assert all((once[name] == again[name]).all() for name in once)
    assert set(once["test"]) != set(other["test"])


def own(**counts: int) -> np.ndarray:
    codes = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "none": -1}
    return np.concatenate([np.full(count, codes[name]) for name, count in counts.items()])


def test_the_files_own_split_is_taken_and_rows_without_one_train():
    codes = own(test=100, train=700, validation=150, none=50)
    parts = split_rows(LABELS, codes, SplitSettings())
    assert sizes(parts) == [750, 150, 100]
    assert (parts["test"] == np.arange(100)).all()


def test_a_missing_validation_is_a_stratified_tenth_of_train():
    parts = split_rows(LABELS, own(train=900, test=100), SplitSettings())
    assert sizes(parts) == [810, 90, 100]
    assert np.bincount(LABELS[parts["validation"]]).tolist() == [60, 30]


def test_a_lone_validation_serves_as_test_when_told_to():
    codes = own(train=900, validation=100)
    assert sizes(split_rows(LABELS, codes, SplitSettings())) == [900, 100, 0]
    parts = split_rows(LABELS, codes, SplitSettings(validation_as_test=True))
    assert sizes(parts) == [810, 90, 100]
    assert (parts["test"] == np.arange(900, 1000)).all()


def test_a_file_of_test_rows_only_trains_nothing():
    assert sizes(split_rows(LABELS, own(test=1000), SplitSettings())) == [0, 0, 1000]


def test_the_files_split_is_passed_over_when_told_to():
    assert sizes(split_rows(LABELS, own(train=900, test=100), SplitSettings(own=False, ratios=(9, 1)))) == [
        810,
        90,
        100,
    ]


def apart(texts: dict[str, list[str]]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Run the search over these texts by split, and give back the texts that are left."""
    everything = [text for part_texts in texts.values() for text in part_texts]
    ends = np.cumsum([0, *map(len, texts.values())])
    parts = {name: np.arange(low, high) for name, low, high in zip(texts, ends, ends[1:], strict=False)}

    def of(rows: RowIndices) -> Iterator[str]:
        return (everything[row] for row in rows)

    left, gone = remove_cross_split_duplicates(parts, of, 0.85, 13)  # type: ignore[arg-type]
    return {name: [everything[row] for row in rows] for name, rows in left.items()}, gone


def test_folds_test_every_row_once_by_label_and_validate_on_a_tenth_of_the_rest():
    parts = [split_rows(LABELS, NONE, SplitSettings(folds=5, fold=fold)) for fold in range(5)]
    assert sorted(np.concatenate([one["test"] for one in parts]).tolist()) == list(range(1000))
    for one in parts:
        assert sizes(one) == [720, 80, 200]
        assert np.bincount(LABELS[one["test"]]).tolist() == [120, 60, 20]
        assert len(set().union(*(set(rows.tolist()) for rows in one.values()))) == 1000


def test_a_fold_passes_the_files_own_split_over():
    own = np.full(1000, TRAIN)
    assert sizes(split_rows(LABELS, own, SplitSettings(folds=4, fold=3))) == [675, 75, 250]


def test_more_folds_than_any_label_has_rows_are_a_fault_and_a_fold_too_far_is_refused():
    with pytest.raises(Fault, match="fewer folds"):
        split_rows(np.array([0, 0, 1]), NONE[:3], SplitSettings(folds=3))
    for wrong in ({"folds": 3, "fold": 3}, {"fold": 1}, {"folds": 1}):
        with pytest.raises(ValidationError):
            SplitSettings.model_validate(wrong)


def test_near_duplicates_leave_the_training_side_and_are_counted():
    left, gone = apart(
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
    assert gone == {"train/test": 3, "train/validation": 1, "validation/test": 1}


def test_near_duplicates_inside_one_part_stay():
    left, gone = apart({"train": ["one two three"] * 3, "validation": ["four"], "test": ["five six"] * 2})
    assert [len(texts) for texts in left.values()] == [3, 1, 2]
    assert not any(gone.values())


PHRASES = st.lists(st.sampled_from(["up", "down", "oil", "gold", "fed", "利好", "跌"]), min_size=1, max_size=5).map(
    " ".join
)


@settings(deadline=None, max_examples=40)
@given(*[st.lists(PHRASES, max_size=12)] * 3)
def test_no_near_pair_ever_straddles_and_no_test_row_ever_moves(
    train: list[str], validation: list[str], test: list[str]
):
    left, gone = apart({"train": train, "validation": validation, "test": test})
    assert left["test"] == test
    for one, other in (("train", "validation"), ("train", "test"), ("validation", "test")):
        pairs = [(shingles(a), shingles(b)) for a in left[one] for b in left[other]]
        assert not any(jaccard(a, b) >= 0.85 for a, b in pairs)
    assert sum(gone.values()) == len(train) + len(validation) - len(left["train"]) - len(left["validation"])
