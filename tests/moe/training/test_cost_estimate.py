"""Claims about `moe plan`: it tries what a run does, keeps nothing, and scales by what it left out."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import Make
from corpora import asking
from rich.console import Console

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.console import format_duration
from moe.data.sampler import DomainBatchSampler
from moe.runs.dry_run import DryRun, BatchSubset
from moe.runs.workspace import Workspace
from moe.training.cost_estimate import Figures, estimate_cost, cost_view
from moe.training.instruct import instruct
from moe.training.pretrain import pretrain, pretrain_shared
from moe.training.steps import merge_experts, train_domain, train_router, train_shared


def ran(work: Workspace, name: str) -> tuple[int, int]:
    """Steps that a stage took, and evaluations that it made."""
    lines = [json.loads(line) for line in (work.logs(name) / "log.jsonl").read_text().splitlines()]
    evaluations = sum(any(key.startswith("eval_") for key in line) for line in lines)
    return sum("grad_norm" in line for line in lines), evaluations


def by_name(found: Figures) -> dict[str, Figures]:
    return {one["name"]: one for one in found["stages"]}


def test_it_foretells_the_steps_evaluations_and_weights_of_a_run(make_work: Make) -> None:
    over = {"shared": {"r": 2}, "stages": {"expert": {"steps": 14, "evals": 3, "patience": 9}}}
    foretold = by_name(estimate_cost(make_work("plan", **over)))
    work = make_work("run", **over)
    train_shared(work)
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    assert list(foretold) == ["shared", "news", "forum", "router-warmup", "moe-joint"]
    for name, one in foretold.items():
        assert (one["steps"], one["evaluations"]) == ran(work, name)
    card = read_json(work.expert_folder("news") / "metrics.json")
    assert card["steps"] == foretold["news"]["steps"] == 14
    assert foretold["router-warmup"]["learned"] < foretold["moe-joint"]["learned"] < foretold["moe-joint"]["weights"]


@pytest.mark.slow
def test_a_language_model_s_run_is_foretold_from_its_corpora_and_questions(tmp_path: Path) -> None:
    few = {"shared": {"steps": 13}, "pretrain": {"steps": 12}, "instruct": {"steps": 11}}
    foretold = by_name(estimate_cost(asking(tmp_path, stages=few, shared={"r": 2})))
    work = asking(tmp_path, stages=few, shared={"r": 2})
    pretrain_shared(work)
    pretrain(work)
    merge_experts(work)
    train_router(work)
    instruct(work)
    assert list(foretold) == ["shared", "news", "forum", "router-warmup", "moe-joint", "moe-instruct"]
    for name, one in foretold.items():
        before = 1 if one["stage"] in ("shared", "pretrain") else 0  # what the model knew is measured too
        assert (one["steps"], one["evaluations"] - before) == ran(work, name)


def test_nothing_is_kept_but_the_rows_that_were_read(make_work: Make, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work()
    found = estimate_cost(work)
    assert [path.name for path in work.out.iterdir()] == ["data"]
    assert "macro-F1" not in capsys.readouterr().err, "figures of a trial are no figures"
    for one in found["stages"]:
        assert one["seconds"] > one["steps"] * one["seconds_per_step"]
        assert sum(one["memory"].values()) >= one["peak_mib"] * 0.999
    each = sum(one["seconds"] for one in found["stages"])
    assert found["seconds"] == pytest.approx(each + found["start_seconds"])
    console = Console(width=200, record=True)
    console.print(cost_view(found))
    assert "moe-joint" in (said := console.export_text())
    assert "together" in said


def test_an_evaluation_counts_for_all_the_rows_that_it_left_out(make_work: Make) -> None:
    probe = DryRun(rows=9)
    work = make_work()
    work.dry_run = probe
    rows = work.rows("validation")
    assert len(rows) == 9
    assert probe.pop_row_share() == pytest.approx(9 / len(make_work().rows("validation")))
    assert probe.pop_row_share() == 1.0, "told once"


def test_a_few_batches_stand_for_all_the_dearest_first() -> None:
    lengths = np.arange(1, 161)
    whole = DomainBatchSampler(np.zeros(160, int), lengths, 4, 1.0, 3)
    cost = [len(rows) * lengths[rows].max() for rows in BatchSubset(whole, 9)]
    every = [len(rows) * lengths[rows].max() for rows in whole]
    assert cost[0] == max(every)
    assert np.mean(cost[1:]) == pytest.approx(np.mean(every), rel=0.05)
    assert len(BatchSubset(DomainBatchSampler(np.zeros(6, int), lengths[:6], 4, 1.0, 3), 9)) == 2


def test_what_cannot_be_trained_cannot_be_planned(make_work: Make) -> None:
    with pytest.raises(Fault, match="found nothing there"):
        estimate_cost(make_work(domains={"news": {"file": "elsewhere.csv"}}))


@pytest.mark.parametrize(("seconds", "said"), [(3.2, "3 s"), (300, "5 min"), (9000, "2.5 h")])
def test_times_are_told_as_people_say_them(seconds: float, said: str) -> None:
    assert format_duration(seconds) == said
