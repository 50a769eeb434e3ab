"""Claims about an evaluation: every metric with its interval, by task, by domain and on average."""

import io

import pytest
from conftest import Make
from mixtures import random_mixture
from rich.console import Console

from experts.json_io import json_object
from moe.evaluation.evaluate import evaluate
from moe.model.backbone import load_backbone
from moe.report.terminal import evaluation_view


def test_every_accuracy_and_f1_has_an_interval_around_it(make_work: Make) -> None:
    work = make_work()
    report, _ = evaluate(random_mixture(load_backbone(work.run.backbone), work), work.rows("test"), "{text}", 16)
    reports = [*report.tasks.values(), *report.tasks_routed.values(), *report.domains.values()]
    assert len(reports) == 6
    for metrics in [*reports, report.mean]:
        for name in ("accuracy", "macro_f1", "weighted_f1"):
            low, high = metrics.interval(name)
            assert 0 <= low <= metrics.value(name) <= high <= 1
            assert high > low
    assert report.domains["news"].accuracy_interval == report.tasks["news"].accuracy_interval


def test_terminal_table_shows_the_interval_of_every_metric(make_work: Make) -> None:
    work = make_work()
    report, _ = evaluate(random_mixture(load_backbone(work.run.backbone), work), work.rows("test"), "{text}", 16)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as output:
        console.print(evaluation_view(report))
    for metrics in (report.tasks["forum"], report.mean):
        low, high = metrics.macro_f1_interval
        assert f"{metrics.macro_f1:.3f} │ {low:.3f}–{high:.3f}" in output.get()


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_rows_without_a_label_are_counted_but_not_evaluated(make_work: Make, mode: str) -> None:
    work = make_work()
    rows = work.rows("test", ["news"]).map(lambda row: row | {"label": -1})
    report, _ = evaluate(random_mixture(load_backbone(work.run.backbone), work), rows, "{text}", 16, mode)
    assert report.rows == len(rows)
    assert (report.tasks, report.mean) == ({}, None)
    assert json_object(report)["mean"] == {}
