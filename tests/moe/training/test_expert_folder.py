"""A shared expert that starts from a trained one: placed if it is frozen, else trained further."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Make, made_up_rows, write_csv
from safetensors.torch import load_file

from experts.errors import Fault
from experts.expert_io import read_expert
from moe.ablation.variants import retrained_variants
from moe.checkpoints.expert import load_single_expert
from moe.checkpoints.mixture import read_mixture
from moe.evaluation.evaluate import evaluate
from moe.membership.update import UpdateTarget, add
from moe.plan.cost_estimate import estimate_cost
from moe.runs.workspace import Workspace
from moe.sweep.trials import count_trained_parameters
from moe.training.expert_steps import train_domain, train_shared
from moe.training.steps import merge_experts, train_router

ADAPTER = "adapter_model.safetensors"
STAGES = {name: {"steps": 3} for name in ("shared", "expert", "warmup", "joint", "adapt")}


@pytest.fixture
def source(make_work: Make) -> Path:
    """Folder of a trained shared expert of another run."""
    return train_shared(make_work("source", shared={"r": 2}, stages=STAGES))


def starting_from(make_work: Make, folder: Path, out: str = "run", frozen: bool = True, **over: Any) -> Workspace:
    return make_work(out, shared={"init": str(folder), "frozen": frozen}, stages=STAGES, **over)


def adapter_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / ADAPTER)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_four_commands_place_a_frozen_expert_that_no_stage_changes(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    train_domain(work, "news")
    train_domain(work, "forum")
    merge_experts(work)
    train_router(work)
    before = adapter_of(source)
    for folder in (
        "experts/shared",
        *(f"{name}/experts/shared" for name in ("moe-init", "router-warmup", "moe-joint")),
    ):
        assert equal(adapter_of(work.out / folder), before), folder
    trained = adapter_of(work.out / "moe-joint/experts/forum")
    assert all(tensor.any() for key, tensor in trained.items() if "lora_B" in key)


def test_frozen_expert_card_records_where_it_comes_from(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    train_domain(work, "news")
    train_domain(work, "forum")
    merge_experts(work)
    card, original = read_expert(work.out / "experts" / "shared").card, read_expert(source)
    assert card is not None
    assert card.init is not None
    assert original.card is not None
    assert (card.steps, card.data_sha256, card.always_on) == (0, {}, True)
    assert card.init.frozen
    assert (card.init.sha256, card.init.data_sha256) == (original.digest, original.card.data_sha256)
    _, mixture = read_mixture(work.out / "moe-init")
    assert mixture.origins["shared"].init == card.init
    assert mixture.origins["news"].init is None


def test_placed_expert_predicts_as_the_original(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    rows = work.rows("test")
    reports = []
    for folder in (source, train_shared(work)):
        model, run = load_single_expert(folder)
        reports.append(evaluate(model, rows, run.template, run.backbone.max_length)[0].tasks)
    assert reports[0] == reports[1]


def test_experts_start_from_the_heads_of_a_frozen_expert(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    train_domain(work, "forum")
    key = "classes.negative-neutral-positive.1.weight"
    shared, forum = (read_expert(work.out / "experts" / name).heads[key] for name in ("shared", "forum"))
    assert torch.equal(shared, read_expert(source).heads[key])
    assert (forum - shared).abs().max() < 0.05
    assert not torch.equal(forum, shared)


def test_expert_that_is_not_frozen_is_trained_further_from_the_given_weights(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source, frozen=False)
    trained, start = adapter_of(train_shared(work)), adapter_of(source)
    assert not equal(trained, start)
    assert all((trained[key] - start[key]).abs().max() < 0.2 for key in start)
    fresh = adapter_of(train_shared(make_work("fresh", shared={"r": 2}, seed=8, stages=STAGES)))
    distance = {
        name: sum((other[key] - start[key]).norm() for key in start)
        for name, other in (("init", trained), ("fresh", fresh))
    }
    assert distance["init"] < distance["fresh"]
    card = read_expert(work.out / "experts" / "shared").card
    assert card is not None
    assert card.init is not None
    assert not card.init.frozen
    assert set(card.data_sha256) == {"news", "forum"}


def test_expert_that_is_not_frozen_must_be_trained_before_the_others(make_work: Make, source: Path) -> None:
    with pytest.raises(Fault, match="Train it first"):
        train_domain(starting_from(make_work, source, frozen=False), "news")


def test_placed_expert_is_kept_and_overwrite_replaces_it(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    folder = train_shared(work)
    before = (folder / "manifest.json").stat().st_mtime_ns
    for resume in (True, False):
        assert train_shared(work, resume=resume) == folder
        assert (folder / "manifest.json").stat().st_mtime_ns == before
    train_shared(work, overwrite=True)
    assert (folder / "manifest.json").stat().st_mtime_ns != before


def test_placed_expert_of_another_init_is_refused(make_work: Make, source: Path) -> None:
    other = train_shared(make_work("other", shared={"r": 3}, stages=STAGES))
    train_shared(starting_from(make_work, source))
    with pytest.raises(Fault, match="another shared expert"):
        train_domain(starting_from(make_work, other), "news")


def test_missing_init_is_reported_before_anything_is_written(make_work: Make, tmp_path: Path) -> None:
    work = starting_from(make_work, tmp_path / "none")
    with pytest.raises(Fault, match="or a hub id"):
        train_domain(work, "news")
    assert not work.out.exists() or not (work.out / "experts").exists()


def test_plan_of_a_frozen_expert_has_no_stage_for_it(make_work: Make, source: Path) -> None:
    stages = [stage.name for stage in estimate_cost(starting_from(make_work, source, out="plan")).stages]
    assert stages == ["news", "forum", "router-warmup", "moe-joint", "pooled"]


def test_mixture_on_a_frozen_expert_accepts_a_new_expert_after_the_joint_stage(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    for name in ("news", "forum"):
        train_domain(work, name)
    merge_experts(work)
    train_router(work)
    macro = {"macro": {"file": "macro.csv", "labels": ["negative", "neutral", "positive"]}}
    extended = starting_from(make_work, source, out="extended", domains=macro)
    train_domain(extended, "macro")
    target = UpdateTarget(work.out / "grown")
    add(work.out / "moe-joint", extended.expert_folder("macro"), extended.run, target)
    assert equal(adapter_of(target.out / "experts/shared"), adapter_of(source))


def test_ablation_retrains_no_other_trunk_depth_with_a_trained_expert(make_work: Make, source: Path) -> None:
    names = {variant.name for variant in retrained_variants(starting_from(make_work, source).run)}
    assert "shared-off" in names
    assert not any(name.startswith("trunk-") for name in names)


def test_frozen_experts_do_not_count_as_trained(make_work: Make, source: Path) -> None:
    work = starting_from(make_work, source)
    model, _ = load_single_expert(train_shared(work))
    frozen, all_of_it = (count_trained_parameters(model, names) for names in (("shared",), ()))
    assert all_of_it - frozen == sum(tensor.numel() for tensor in adapter_of(source).values())


def test_few_rows_without_scores_give_no_polarity_head(make_work: Make, source: Path, tmp_path: Path) -> None:
    rows = [{key: value for key, value in row.items() if key != "score"} for row in made_up_rows("news")]
    shutil.rmtree(tmp_path / "data")
    write_csv(tmp_path / "data" / "news.csv", rows)
    make = starting_from(make_work, source).run
    run = make.model_copy(update={"domains": {"news": make.domains["news"]}})
    write_csv(tmp_path / "data" / "news.csv", rows)
    card = read_expert(train_shared(Workspace(run, tmp_path / "scoreless"))).card
    assert card is not None
    assert not card.polarity
