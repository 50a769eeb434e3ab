"""Tests of `benchmarks/conflict_rows.py`: which rows are flipped."""

from collections.abc import Callable
from types import ModuleType

import pytest

ROWS = [
    {"id": str(i), "text": text, "label": label, "split": "train"}
    for i, (text, label) in enumerate(
        [
            ("Profit rose.", "positive"),
            ("Sales ROSE again", "positive"),
            ("Sales rose", "neutral"),
            ("Profit fell", "negative"),
            ("Sales fell, orders rose", "positive"),
            ("A primrose", "positive"),
        ]
    )
]


@pytest.fixture
def rows(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("conflict_rows")


def flipped(rows: ModuleType, share: float, *, by_phrase: bool = True) -> list[int]:
    flipped_rows = rows.flip(ROWS, ["rose", "fell"], share, by_phrase=by_phrase)
    assert all(
        before | {"label": ""} == after | {"label": ""} for before, after in zip(ROWS, flipped_rows, strict=True)
    )
    return [i for i, row in enumerate(flipped_rows) if row["label"] != ROWS[i]["label"]]


def test_flip_exchanges_labels_of_rows_with_a_phrase(rows: ModuleType) -> None:
    assert flipped(rows, 0.0) == []
    assert flipped(rows, 1.0) == [0, 1, 3, 4], "neither neutral rows nor parts of words"
    assert rows.flip(ROWS, ["rose"], 1.0)[0]["label"] == "negative"


@pytest.mark.parametrize("by_phrase", [True, False])
def test_flip_of_a_larger_share_holds_the_smaller(rows: ModuleType, by_phrase: bool) -> None:
    sets = [set(flipped(rows, share, by_phrase=by_phrase)) for share in (0.25, 0.5, 0.75, 1.0)]
    assert [len(chosen) for chosen in sets] == [1, 2, 3, 4]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_flip_begins_with_the_most_frequent_phrase(rows: ModuleType) -> None:
    assert rows.frequent_phrases(ROWS) == ["rose", "fell"]
    assert flipped(rows, 0.75) == [0, 1, 4]
