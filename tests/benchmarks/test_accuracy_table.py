"""Tests of `benchmarks/accuracy_table.py`: means with and without chance level, and pairing by seed."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from experts.domain import Domain, LabelSpace

SPACE = LabelSpace.from_domains([Domain("news", {"fpb": ("a", "b")}), Domain("quant", {"stocknet": ("a", "b")})])


@pytest.fixture
def accuracy_table(benchmark: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark("accuracy_table")


def result(model: str, seed: int, fpb: str, stocknet: str) -> dict[str, Any]:
    """A model's predictions of rows, a letter each, whose labels are a, b, a, b."""
    predictions = {"fpb": (list("abab"), list(fpb)), "stocknet": (list("abab"), list(stocknet))}
    return {"model": model, "seed": seed, "predictions": predictions, "routing": None, "validation": 0.5}


def test_means_leave_out_tasks_at_chance_level(accuracy_table: ModuleType) -> None:
    means = accuracy_table.means([result("x", 1, "abab", "baba")], None, SPACE, ("stocknet",))
    assert {name: interval.value for name, interval in means.items()} == {
        "news": 1.0,
        "quant": 0.0,
        "mean": 0.5,
        "mean without chance level": 1.0,
    }
    assert "mean without chance level" not in accuracy_table.means([result("x", 1, "abab", "baba")], None, SPACE, ())


def test_differences_use_the_seeds_that_both_models_have(
    accuracy_table: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = [result("x", 2, "abab", "abab"), result("x", 1, "baba", "abab")]
    theirs = [result("y", 1, "baba", "abab"), result("y", 3, "baba", "baba"), result("y", 2, "abab", "abab")]
    accuracy_table.print_accuracy([*ours, *theirs], SPACE, {"x": "ours", "y": "theirs"}, ("x", "y"))
    output = capsys.readouterr().out
    assert "+0.00 (+0.00 to +0.00)" in output
    assert "ours: 2 seeds so far, fewer than 8: preliminary" in output
    assert "seeds: 1, 2, 3; chance level: stocknet" in output


def test_results_are_read_from_folders_below(benchmark: Callable[[str], ModuleType], tmp_path: Any) -> None:
    predictions = benchmark("predictions")
    for folder, model in (("a", "x"), ("b", "x"), ("b/c", "y")):
        predictions.append_result(tmp_path / folder, 13, model, predictions.TestResult({"fpb": (["a"], [folder])}))
    results = predictions.read_all_results(tmp_path)
    assert [(r["model"], r["predictions"]["fpb"][1]) for r in results] == [("x", ["a"]), ("y", ["b/c"])]
