"""Tests of defaults that depend on other settings: shared expert, experts on top of it, length of texts."""

from typing import Any

import pytest
import yaml

from moe.config.run import RunSettings, parse_run

LABELLED = {"news": {"file": "news.csv", "labels": ["negative", "positive"]}}


def settings(**given: Any) -> RunSettings:
    return parse_run({"domains": LABELLED, **given}, "test")


def test_a_classifier_has_a_shared_expert_and_small_experts_on_top_of_it() -> None:
    run = settings()
    assert run.shared is not None
    assert run.shared.r == 40
    assert run.lora.r == 4
    assert run.stages.expert.lr == pytest.approx(5e-4)
    assert run.backbone.max_length == "auto"


def test_experts_without_a_shared_expert_have_the_rank_of_a_lone_one() -> None:
    run = settings(shared=None)
    assert run.shared is None
    assert run.lora.r == 16
    assert run.stages.expert.lr == pytest.approx(1e-3)


def test_settings_that_are_given_stay() -> None:
    run = settings(shared={"r": 12}, lora={"r": 6}, stages={"expert": {"lr": 2e-3}}, backbone={"max_length": 40})
    assert run.shared is not None
    assert (run.shared.r, run.lora.r, run.backbone.max_length) == (12, 6, 40)
    assert run.stages.expert.lr == pytest.approx(2e-3)
    assert run.stages.expert.epochs == 1.0  # on top of a shared expert


def test_stage_keeps_its_defaults_beside_the_keys_that_are_given() -> None:
    stages = settings(stages={"warmup": {"batch_size": 8}, "joint": {"evals": 1}}).stages
    assert (stages.warmup.steps, stages.warmup.batch_size) == (500, 8)
    assert stages.warmup.router_lr == pytest.approx(3e-3)
    assert stages.joint.lr == pytest.approx(3e-5)


def test_epochs_replace_the_default_steps_of_a_stage() -> None:
    assert settings(stages={"warmup": {"epochs": 2}}).stages.warmup.steps is None


def test_language_models_have_no_shared_expert_by_default() -> None:
    run = parse_run({"language": {}, "domains": {"news": {"corpus": ["news.txt"]}}}, "test")
    assert run.shared is None
    assert run.backbone.max_length == 128


def test_resolved_settings_are_read_as_they_were_written() -> None:
    run = settings()
    assert parse_run(yaml.safe_load(run.as_yaml()), "test") == run


@pytest.mark.parametrize(("epochs", "steps"), [(1, 20), (3, 30), (9, 50)])
def test_steps_of_epochs_stay_within_their_bounds(epochs: int, steps: int) -> None:
    stage = settings(stages={"shared": {"epochs": epochs, "min_steps": 20, "max_steps": 50}}).stages.shared
    assert stage.count_steps(10) == steps
