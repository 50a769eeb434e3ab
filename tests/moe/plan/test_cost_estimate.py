"""Tests of `moe plan`: it runs every step of a run briefly, writes only prepared rows, and scales the measurements."""

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import LABELS, Make
from corpora import make_question_workspace
from rich.console import Console

import moe
from experts.atomic_io import read_json
from experts.errors import Fault
from moe.config.stages import EXPERT
from moe.console import format_duration
from moe.data.collator import Collator
from moe.data.sampler import DomainBatchSampler
from moe.model.backbone import load_tokenizer
from moe.plan.cost_estimate import CostEstimate, estimate_cost
from moe.plan.dry_run import BatchSubset, DryRun, estimate_tokens
from moe.plan.measured_cost import StageEstimate
from moe.plan.view import cost_view
from moe.runs.workspace import Workspace
from moe.training.expert_steps import new_expert, train_domain, train_shared
from moe.training.language.instruct import instruct
from moe.training.language.pretrain import pretrain, pretrain_shared
from moe.training.pooled import train_pooled
from moe.training.steps import merge_experts, train_router


def logged_counts(work: Workspace, name: str) -> tuple[int, int]:
    """Numbers of steps and evaluations in the log of a stage."""
    lines = [json.loads(line) for line in (work.logs(name) / "log.jsonl").read_text().splitlines()]
    evaluations = sum(any(key.startswith("eval_") for key in line) for line in lines)
    return sum("grad_norm" in line for line in lines), evaluations


def stages_by_name(estimate: CostEstimate) -> dict[str, StageEstimate]:
    return {stage.name: stage for stage in estimate.stages}


def test_estimate_has_the_steps_evaluations_and_parameters_of_a_run(make_work: Make) -> None:
    over = {"shared": {"r": 2}, "stages": {"expert": {"steps": 14, "evals": 3, "patience": 9}}}
    estimated = stages_by_name(estimate_cost(make_work("plan", **over)))
    work = make_work("run", **over)
    train_shared(work)
    for domain in ("news", "forum"):
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    assert list(estimated) == ["shared", "news", "forum", "router-warmup", "moe-joint", "pooled"]
    train_pooled(work)
    for name, stage in estimated.items():
        assert (stage.steps, stage.evaluations) == logged_counts(work, name), name
    metrics = read_json(work.expert_folder("news") / "metrics.json")
    assert metrics["steps"] == estimated["news"].steps == 14
    warmup, joint = estimated["router-warmup"], estimated["moe-joint"]
    assert warmup.learned < joint.learned < joint.weights


def test_experts_with_the_same_losses_are_measured_once_and_scaled_by_their_rows(make_work: Make) -> None:
    epochs = {"stages": {"expert": {"steps": None, "min_steps": 1, "epochs": 2.0, "evals": 4, "patience": 2}}}
    macro = {"file": "macro.csv", "labels": list(LABELS), "columns": {"score": None}, "max_train_rows": 24}
    forum = {"experts": 2, "max_train_rows": 24}
    work = make_work(domains={"macro": macro, "forum": forum}, gate={"kind": "team"}, **epochs)
    estimate = estimate_cost(work)
    stages = stages_by_name(estimate)
    assert list(stages) == ["news", "forum-1", "forum-2", "macro", "router-warmup", "moe-joint", "pooled"]
    scored = {stages[name].measured for name in ("news", "forum-1", "forum-2")}
    assert scored <= {"news", "forum-1", "forum-2"}
    assert stages["macro"].measured == "macro", "without scores it has other losses"
    assert (stages["news"].steps, stages["forum-1"].steps, stages["macro"].steps) == (14, 6, 6)
    assert stages["news"].at_most
    assert not stages["router-warmup"].at_most
    for name in ("news", "forum-1", "macro"):
        stage = stages[name]
        parts = stage.steps * stage.seconds_per_step + stage.evaluations * stage.seconds_per_evaluation
        assert stage.seconds >= parts
    assert estimate.evaluation.models == 7
    assert estimate.evaluation.rows == len(work.rows("test"))
    console = Console(width=200, record=True)
    console.print(cost_view(estimate))
    output = console.export_text()
    assert "at most" in output
    assert "patience may end a stage sooner" in output
    for saving in estimate.savings:
        assert saving.seconds < estimate.seconds
        assert f"{saving.change} → about" in output


def test_tokens_are_estimated_from_a_sample_and_cut_at_the_maximum_length(make_work: Make) -> None:
    work = make_work()
    rows, labels = work.rows("train"), work.run.label_space()
    tokenizer = load_tokenizer(work.run.backbone)
    for max_length in (64, 8):
        collator = Collator(tokenizer, work.run.template, max_length, labels, list(work.run.domains))
        counted = collator.lengths(rows["text"], rows["target"])
        estimated = estimate_tokens(rows, collator)
        assert estimated.max() <= max_length
        assert estimated.sum() == pytest.approx(counted.sum(), rel=0.05)


@pytest.mark.parametrize(("seconds_per_token", "count"), [(None, 3), (1e-6, 9), (8e-4, 5), (1.0, 3)])
def test_dry_run_takes_as_many_steps_as_fit_into_its_time(seconds_per_token: float | None, count: int) -> None:
    assert DryRun(seconds=4.0, seconds_per_token=seconds_per_token).step_count(1000) == count


@pytest.mark.slow
def test_estimate_of_a_language_model_s_run_uses_its_corpora_and_questions(tmp_path: Path) -> None:
    few = {"shared": {"steps": 13}, "pretrain": {"steps": 12}, "instruct": {"steps": 11}}
    estimated = stages_by_name(estimate_cost(make_question_workspace(tmp_path, stages=few, shared={"r": 2})))
    work = make_question_workspace(tmp_path, stages=few, shared={"r": 2})
    pretrain_shared(work)
    pretrain(work)
    merge_experts(work)
    train_router(work)
    instruct(work)
    assert list(estimated) == ["shared", "news", "forum", "router-warmup", "moe-joint", "moe-instruct"]
    for name, stage in estimated.items():
        unlogged = 1 if stage.stage in ("shared", "pretrain") else 0  # the evaluation before training
        assert (stage.steps, stage.evaluations - unlogged) == logged_counts(work, name)


def test_dry_run_writes_only_prepared_rows(make_work: Make, capsys: pytest.CaptureFixture[str]) -> None:
    work = make_work()
    estimate = estimate_cost(work)
    assert [path.name for path in work.out.iterdir()] == ["data"]
    assert "macro-F1" not in capsys.readouterr().err, "metrics of a dry run are meaningless"
    for stage in estimate.stages:
        assert stage.seconds > stage.steps * stage.seconds_per_step
        assert sum(stage.memory.values()) >= stage.peak_mib * 0.999
    total = sum(stage.seconds for stage in estimate.stages) + estimate.evaluation.seconds
    assert estimate.seconds == pytest.approx(total + estimate.start_seconds)
    console = Console(width=200, record=True)
    console.print(cost_view(estimate))
    assert "moe-joint" in (output := console.export_text())
    assert "total" in output


def test_dry_run_evaluates_on_a_few_validation_rows_and_reports_their_share(make_work: Make) -> None:
    dry_run, work = DryRun(rows=9), make_work()
    expert = new_expert(work, EXPERT, work.domains()["news"], "news", seed=0)
    dry_run.train_expert(expert)
    (stats,) = dry_run.stages
    validation = work.rows("validation", ["news"])
    assert stats.row_share == 9 / len(validation)
    assert len(expert.data.held_out["labelled"]) == len(validation), "the stage's own data are unchanged"


def test_dry_run_measures_the_same_size_whatever_was_measured_before(make_work: Make) -> None:
    dry_run, work = DryRun(caches_trunk=True), make_work()
    for _ in range(2):
        dry_run.train_expert(new_expert(work, EXPERT, work.domains()["news"], "news", seed=0))
    first, second = dry_run.stages
    assert first.cached_bytes == second.cached_bytes > 0
    assert first.row_share == second.row_share
    assert first.trainable == second.trainable


def test_code_that_trains_knows_of_no_dry_run() -> None:
    source = Path(moe.__file__).parent
    rooms = ("training", "runs", "data", "evaluation")
    assert [path for room in rooms for path in (source / room).rglob("*.py") if "dry_run" in path.read_text()] == []


def test_batch_subset_is_representative_and_starts_with_the_most_expensive() -> None:
    lengths = np.arange(1, 161)
    sampler = DomainBatchSampler(np.zeros(160, int), lengths, 4, 1.0, 3)
    cost = [len(rows) * lengths[rows].max() for rows in BatchSubset(sampler, 9)]
    all_costs = [len(rows) * lengths[rows].max() for rows in sampler]
    assert cost[0] == max(all_costs)
    assert np.mean(cost[1:]) == pytest.approx(np.mean(all_costs), rel=0.05)
    assert len(BatchSubset(DomainBatchSampler(np.zeros(6, int), lengths[:6], 4, 1.0, 3), 9)) == 2


def test_estimate_refuses_a_run_whose_data_are_missing(make_work: Make) -> None:
    with pytest.raises(Fault, match="found nothing there"):
        estimate_cost(make_work(domains={"news": {"file": "elsewhere.csv"}}))


@pytest.mark.parametrize(("seconds", "text"), [(3.2, "3 s"), (300, "5 min"), (9000, "2.5 h")])
def test_format_duration_uses_a_readable_unit(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
