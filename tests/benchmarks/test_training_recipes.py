"""Tests of `benchmarks/training_recipes.py`: its rows are valid settings, and a tiny run of both models."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from moe.config.run import load_run

Import = Callable[[str], ModuleType]


@pytest.fixture
def recipes(benchmark: Import) -> ModuleType:
    return benchmark("training_recipes")


def test_rows_are_valid_settings_and_all_but_plain_change_the_run(recipes: ModuleType) -> None:
    runs = {row: load_run(recipes.CONFIG, sets) for row, sets in recipes.ROWS.items()}
    dumps = [run.as_yaml() for run in runs.values()]
    assert len(set(dumps)) == len(dumps)
    assert runs[recipes.PLAIN] == load_run(recipes.CONFIG)


def test_results_of_parts_are_read_from_their_folders_once(recipes: ModuleType, tmp_path: Path) -> None:
    result = {"row": "dropout", "seed": 13, "model": "pooled"}
    for part, results in {"a": [result], "b": [result, result | {"seed": 42}]}.items():
        for line in results:
            recipes.append_line(tmp_path / part / "results.jsonl", line)
    assert [recipes.key(each) for each in recipes.read_results(tmp_path)] == [
        ("dropout", 13, "pooled"),
        ("dropout", 42, "pooled"),
    ]


@pytest.mark.slow
def test_recipes_train_both_models_and_resume(
    recipes: ModuleType, run: Callable[..., str], data: Path, tmp_path: Path
) -> None:
    rows = ["plain", "dropout"]
    arguments = (data, "--out", tmp_path / "out", "--seeds", 13, "--rows", *rows)
    printed = run(recipes, *arguments)
    assert "pooled" in printed
    assert "mixture" in printed
    assert all(row in printed for row in rows)
    assert len(recipes.read_results(tmp_path / "out")) == 4
    assert run(recipes, *arguments, "--print-only") == printed
