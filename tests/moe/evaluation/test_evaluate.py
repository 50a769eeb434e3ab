"""Claims about an evaluation: every figure with its interval, by task, by domain and over all."""

import io

import pytest
from conftest import Make
from mixtures import mixture
from rich.console import Console

from moe.evaluation.evaluate import evaluate
from moe.model.backbone import load_backbone
from moe.report.terminal import evaluation_view


def test_every_accuracy_and_f1_has_an_interval_around_it(make_work: Make) -> None:
    work = make_work()
    report, _ = evaluate(mixture(load_backbone(work.run.backbone), work), work.rows("test"), "{text}", 16)
    by_name = [*report["tasks"].values(), *report["tasks_routed"].values(), *report["domains"].values()]
    assert len(by_name) == 6
    for one in [*by_name, report["mean"]]:
        for name in ("accuracy", "macro_f1", "weighted_f1"):
            low, high = one[f"{name}_interval"]
            assert 0 <= low <= one[name] <= high <= 1
            assert high > low
    assert report["domains"]["news"]["accuracy_interval"] == report["tasks"]["news"]["accuracy_interval"]


def test_the_table_shows_both_ends_beside_every_figure(make_work: Make) -> None:
    work = make_work()
    report, _ = evaluate(mixture(load_backbone(work.run.backbone), work), work.rows("test"), "{text}", 16)
    console = Console(width=80, file=io.StringIO())
    with console.capture() as told:
        console.print(evaluation_view(report))
    for one in (report["tasks"]["forum"], report["mean"]):
        low, high = one["macro_f1_interval"]
        assert f"{one['macro_f1']:.3f} │ {low:.3f}–{high:.3f}" in told.get()


@pytest.mark.parametrize("mode", ["soft", "hard"])
def test_rows_without_a_label_are_counted_and_not_judged(make_work: Make, mode: str) -> None:
    work = make_work()
    rows = work.rows("test", ["news"]).map(lambda row: row | {"label": -1})
    report, _ = evaluate(mixture(load_backbone(work.run.backbone), work), rows, "{text}", 16, mode)
    assert report["rows"] == len(rows)
    assert (report["tasks"], report["mean"]) == ({}, {})
