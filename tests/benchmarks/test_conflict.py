"""Tests of `benchmarks/conflict.py`: which rows are flipped, equal rows of all variants, and a tiny run."""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from moe.config.run import load_run

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
def conflict(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("conflict")


def flipped(conflict: ModuleType, share: float, *, by_phrase: bool = True) -> list[int]:
    rows = conflict.flip(ROWS, ["rose", "fell"], share, by_phrase=by_phrase)
    assert all(before | {"label": ""} == after | {"label": ""} for before, after in zip(ROWS, rows, strict=True))
    return [i for i, row in enumerate(rows) if row["label"] != ROWS[i]["label"]]


def test_flip_exchanges_labels_of_rows_with_a_phrase(conflict: ModuleType) -> None:
    assert flipped(conflict, 0.0) == []
    assert flipped(conflict, 1.0) == [0, 1, 3, 4], "neither neutral rows nor parts of words"
    assert conflict.flip(ROWS, ["rose"], 1.0)[0]["label"] == "negative"


@pytest.mark.parametrize("by_phrase", [True, False])
def test_flip_of_a_larger_share_holds_the_smaller(conflict: ModuleType, by_phrase: bool) -> None:
    sets = [set(flipped(conflict, share, by_phrase=by_phrase)) for share in (0.25, 0.5, 0.75, 1.0)]
    assert [len(rows) for rows in sets] == [1, 2, 3, 4]
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_flip_begins_with_the_most_frequent_phrase(conflict: ModuleType) -> None:
    assert conflict.frequent_phrases(ROWS) == ["rose", "fell"]
    assert flipped(conflict, 0.75) == [0, 1, 4]


def test_variants_have_the_same_rows_and_one_head_each_way(conflict: ModuleType, data: Path, tmp_path: Path) -> None:
    args = argparse.Namespace(folder=data, out=tmp_path / "out", rows=40, sets=[], flip="phrase")
    texts = {}
    heads = {}
    for variant in ("plain", "named", "heads"):
        config, sets = conflict.CaseRun(args, "0.5", 13).config(variant)
        heads[variant] = len(load_run(config, sets).label_space().heads)
        with (config.parent / "desk_b.csv").open(encoding="utf-8") as stream:
            texts[variant] = [(row["text"], row["label"], row["split"]) for row in csv.DictReader(stream)]
    assert heads == {"plain": 1, "named": 1, "heads": 2}
    assert texts["plain"] == texts["heads"]
    assert texts["named"] == [(f"Desk B: {text}", *others) for text, *others in texts["plain"]]
    assert len(texts["plain"]) == 20


@pytest.mark.slow
def test_conflict_runs_and_compares(conflict: ModuleType, run: Callable[..., str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(conflict, data, "--out", out / "a", "--cases", "1", "--seeds", 13)
    run(conflict, data, "--out", out / "b", "--cases", "natural", "--seeds", 13, "--models", "pooled", "mixture")
    output = run(conflict, data, "--out", out, "--print-only")
    for name in conflict.MODELS:
        assert name in output
    assert "leads pooled, head per desk by more than its interval" in output
    assert "gold" in output
