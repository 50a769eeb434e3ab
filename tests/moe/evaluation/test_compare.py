"""Claims about comparing two models: the words follow the interval, and the table says what the report says."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, made_up_rows, write_csv
from mixtures import written
from rich.console import Console

from experts.errors import Fault
from moe.bootstrap import TaskPredictions, Interval
from moe.evaluation.compare import (
    A_BETTER,
    NO_DIFFERENCE,
    B_BETTER,
    ModelTasks,
    _in_common,
    _set_side_by_side,
    compare,
    comparison_view,
    verdict,
)
from moe.membership.update import UpdateTarget, remove
from moe.model.backbone import load_backbone


@pytest.mark.parametrize(
    ("difference", "word"),
    [
        (Interval(0.02, -0.01, 0.05), NO_DIFFERENCE),
        (Interval(0.02, 0.0, 0.05), NO_DIFFERENCE),
        (Interval(0.02, 0.01, 0.05), A_BETTER),
        (Interval(-0.02, -0.05, -0.01), B_BETTER),
    ],
)
def test_a_difference_whose_interval_holds_0_is_none(difference: Interval, word: str) -> None:
    assert verdict(difference) == word


def sides() -> tuple[TaskPredictions, TaskPredictions]:
    """A model that is right on 90 of 100 rows, and one that is right on 60 of these."""
    true = np.arange(100) % 2
    said = [np.where(np.arange(100) < right, true, 1 - true)[None] for right in (90, 60)]
    return TaskPredictions(true, said[0], 2), TaskPredictions(true, said[1], 2)


def test_the_table_shows_points_interval_p_and_word() -> None:
    one = _set_side_by_side([sides()])
    assert one["accuracy"]["difference"] == pytest.approx(0.3)
    assert one["mcnemar_p"] == pytest.approx(2 * 0.5**30)
    report = {"a": "first", "b": "second", "tasks": {"news": one}, "mean": one, "not_compared": {"a": [], "b": []}}
    console = Console(width=100, file=io.StringIO())
    with console.capture() as told:
        console.print(comparison_view(report))
    low, high = one["accuracy"]["interval"]
    line = next(line for line in told.get().splitlines() if line.startswith("│ news"))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert cells == ["news", "accuracy", "0.900", "0.600", "+30.0", interval, "< 0.001", "A better"]


def test_models_whose_labels_differ_are_not_compared(tmp_path: Path) -> None:
    first, second = ModelTasks({"news": ("down", "up")}, ("news",)), ModelTasks({"news": ("up", "down")}, ("news",))
    with pytest.raises(Fault, match="the same labels of news in both models; found down, up and up, down"):
        _in_common((tmp_path, tmp_path), first, second)
    with pytest.raises(Fault, match="two models with a task in common"):
        _in_common((tmp_path, tmp_path), first, ModelTasks({"forum": ("up", "down")}, ("forum",)))


def test_mixtures_of_other_domains_are_compared_on_those_of_both(make_work: Make, tmp_path: Path) -> None:
    whole = make_work()
    folder = written(tmp_path / "whole", load_backbone(whole.run.backbone), whole)
    remove(folder, "forum", UpdateTarget(tmp_path / "less"))
    found = compare(whole, (folder, tmp_path / "less"))
    assert list(found["tasks"]) == ["news"]
    assert found["mean"]["rows"] == 18
    assert found["not_compared"] == {"a": ["forum"], "b": []}
    assert compare(whole, (tmp_path / "less", folder))["not_compared"] == {"a": [], "b": ["forum"]}
    rows = [row | {"domain": name} for name in ("news", "forum") for row in made_up_rows(name, 30)]
    both = compare(whole, (folder, tmp_path / "less"), data=write_csv(tmp_path / "both.csv", rows))
    assert both["mean"]["rows"] == 30
    console = Console(width=100, file=io.StringIO())
    with console.capture() as told:
        console.print(comparison_view(found))
    assert "not compared: forum, known to A alone" in told.get()
