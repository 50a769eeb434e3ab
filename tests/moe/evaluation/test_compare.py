"""Claims about comparing two models: the verdict follows the interval, and the table shows the report."""

import io
from pathlib import Path

import numpy as np
import pytest
from conftest import Make, made_up_rows, write_csv
from mixtures import save_random_mixture
from rich.console import Console

from experts.errors import Fault
from moe.bootstrap import Interval, TaskPredictions
from moe.evaluation.compare import (
    A_BETTER,
    B_BETTER,
    NO_DIFFERENCE,
    ModelTasks,
    _common_tasks,
    _compare_pairs,
    _score_verdict,
    compare,
    comparison_view,
    verdict,
)
from moe.membership.update import UpdateTarget, remove
from moe.model.backbone import load_backbone
from moe.results.evaluation import Comparison


@pytest.mark.parametrize(
    ("difference", "expected"),
    [
        (Interval(0.02, -0.01, 0.05), NO_DIFFERENCE),
        (Interval(0.02, 0.0, 0.05), NO_DIFFERENCE),
        (Interval(0.02, 0.01, 0.05), A_BETTER),
        (Interval(-0.02, -0.05, -0.01), B_BETTER),
    ],
)
def test_verdict_is_none_if_the_interval_contains_0(difference: Interval, expected: str) -> None:
    assert verdict(difference) == expected


def pair_of_models() -> tuple[TaskPredictions, TaskPredictions]:
    """A model that is correct on 90 of 100 rows, and one that is correct on 60 of these."""
    true = np.arange(100) % 2
    predicted = [np.where(np.arange(100) < correct, true, 1 - true)[None] for correct in (90, 60)]
    return TaskPredictions(true, predicted[0], 2), TaskPredictions(true, predicted[1], 2)


def test_table_shows_points_interval_p_value_and_verdict() -> None:
    comparison = _compare_pairs([pair_of_models()])
    assert comparison.accuracy.difference == pytest.approx(0.3)
    assert comparison.mcnemar_p == pytest.approx(2 * 0.5**30)
    tasks, not_compared = {"news": comparison}, {"a": [], "b": []}
    report = Comparison(a="first", b="second", tasks=tasks, mean=comparison, scores={}, not_compared=not_compared)
    console = Console(width=100, file=io.StringIO())
    with console.capture() as output:
        console.print(comparison_view(report))
    low, high = comparison.accuracy.interval
    line = next(line for line in output.get().splitlines() if line.startswith("│ news"))
    cells = [cell.strip() for cell in line.strip("│").split("│")]
    interval = f"{100 * low:+.1f} to {100 * high:+.1f}"
    assert cells == ["news", "accuracy", "0.900", "0.600", "+30.0", interval, "< 0.001", "A better"]


def test_models_with_different_labels_are_not_compared(tmp_path: Path) -> None:
    first, second = ModelTasks({"news": ("down", "up")}, ("news",)), ModelTasks({"news": ("up", "down")}, ("news",))
    with pytest.raises(Fault, match="the same labels of news in both models; found down, up and up, down"):
        _common_tasks((tmp_path, tmp_path), first, second)
    with pytest.raises(Fault, match="two models with a task in common"):
        _common_tasks((tmp_path, tmp_path), first, ModelTasks({"forum": ("up", "down")}, ("forum",)))


def test_mixtures_of_different_domains_are_compared_on_common_ones(make_work: Make, tmp_path: Path) -> None:
    work = make_work()
    both_domains = save_random_mixture(tmp_path / "both", load_backbone(work.run.backbone), work)
    news_only = tmp_path / "news"
    remove(both_domains, "forum", UpdateTarget(news_only))
    report = compare(work, (both_domains, news_only))
    assert list(report.tasks) == ["news"]
    assert report.mean.rows == 18
    assert report.not_compared == {"a": ["forum"], "b": []}
    assert compare(work, (news_only, both_domains)).not_compared == {"a": [], "b": ["forum"]}
    rows = [row | {"domain": name} for name in ("news", "forum") for row in made_up_rows(name, 30)]
    on_file = compare(work, (both_domains, news_only), data=write_csv(tmp_path / "both.csv", rows))
    assert on_file.mean.rows == 30
    console = Console(width=100, file=io.StringIO())
    with console.capture() as output:
        console.print(comparison_view(report))
    assert "not compared, because only A has them: forum" in output.get()


def test_scores_are_compared_with_the_direction_of_each_metric(tmp_path: Path, make_work: Make) -> None:
    work = make_work()
    folders = [
        save_random_mixture(tmp_path / name, load_backbone(work.run.backbone), work, heads=heads)
        for name, heads in (("a", "per_expert"), ("b", "averaged"))
    ]
    report = compare(work, (folders[0], folders[1]))
    assert report.scores.keys() == {"news", "forum"}
    for metric in report.scores["news"].values():
        low, high = metric.interval
        assert low <= metric.difference <= high
    console = Console(width=100, file=io.StringIO())
    with console.capture() as output:
        console.print(comparison_view(report))
    assert "Spearman" in output.get()


@pytest.mark.parametrize(
    ("metric", "interval", "expected"),
    [
        ("mse", [0.1, 0.2], B_BETTER),
        ("mae", [-0.2, -0.1], A_BETTER),
        ("cosine", [0.1, 0.2], A_BETTER),
        ("pearson", [-0.1, 0.2], NO_DIFFERENCE),
        ("spearman", None, NO_DIFFERENCE),
    ],
)
def test_smaller_errors_and_larger_correlations_are_better(
    metric: str, interval: list[float] | None, expected: str
) -> None:
    assert _score_verdict(metric, interval) == expected
