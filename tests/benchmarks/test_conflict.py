"""Tests of `benchmarks/conflict.py`: equal rows of all variants, and a tiny run."""

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from moe.config.run import load_run


@pytest.fixture
def conflict(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("conflict")


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
