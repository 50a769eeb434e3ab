"""Tests of `moe.config.stages`: numbers of steps, defaults of each stage, constants of losses."""

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from moe.config.stages import (
    EXPERT_ON_SHARED,
    STAGE_DEFAULTS,
    STAGES,
    LossSettings,
    StageSettings,
    StagesSettings,
    fill_stage,
)


@given(st.floats(0.01, 50), st.integers(1, 500), st.integers(1, 400), st.none() | st.integers(1, 5000))
@settings(max_examples=60, deadline=None)
def test_steps_are_those_of_the_epochs_within_their_bounds(
    epochs: float, per_epoch: int, least: int, most: int | None
) -> None:
    if most is not None and most < least:
        with pytest.raises(ValidationError, match=f"max_steps {most} is below min_steps {least}: raise it"):
            StageSettings(epochs=epochs, min_steps=least, max_steps=most)
        return
    steps = StageSettings(epochs=epochs, min_steps=least, max_steps=most).count_steps(per_epoch)
    assert least <= steps <= (most or math.inf)
    if least < epochs * per_epoch < (most or math.inf):
        assert steps == pytest.approx(epochs * per_epoch, abs=0.5)


def test_number_of_steps_replaces_epochs_and_their_bounds() -> None:
    stage = StageSettings(steps=7, epochs=100, min_steps=50, max_steps=60)
    assert stage.count_steps(1000) == 7


@pytest.mark.parametrize(
    ("stage", "epochs"),
    [
        ({"epochs": 3, "max_steps": 200}, 2.0),
        ({"epochs": 3, "max_steps": 300}, None),
        ({"epochs": 3}, None),
        ({"steps": 50, "max_steps": 100}, None),
        ({"epochs": 0.1, "min_steps": 50, "max_steps": 100}, None),
    ],
)
def test_limited_epochs_are_those_that_the_most_steps_leave(stage: dict[str, Any], epochs: float | None) -> None:
    assert StageSettings.model_validate(stage).limited_epochs(100) == epochs


@pytest.mark.parametrize("name", STAGE_DEFAULTS)
def test_stage_keeps_its_own_defaults_beside_a_key_that_is_given(name: str) -> None:
    filled = StagesSettings.model_validate({name: {"weight_decay": 0.5}})
    expected = StageSettings.model_validate(STAGE_DEFAULTS[name] | {"weight_decay": 0.5})
    assert getattr(filled, name) == expected
    assert getattr(StagesSettings(), name) == StageSettings.model_validate(STAGE_DEFAULTS[name])


def test_defaults_are_of_stages_that_exist_and_valid_in_every_combination() -> None:
    assert STAGE_DEFAULTS.keys() <= STAGES.keys()
    assert StageSettings.model_validate(fill_stage({}, EXPERT_ON_SHARED)).count_steps(1) == 60


@pytest.mark.parametrize(
    ("given_keys", "defaults", "filled"),
    [
        ({}, {"steps": 500, "evals": 1}, {"steps": 500, "evals": 1}),
        ({"epochs": 2}, {"steps": 500, "evals": 1}, {"epochs": 2, "evals": 1}),
        ({"steps": 9}, {"epochs": 0.5}, {"epochs": 0.5, "steps": 9}),
        ({"epochs": 2, "steps": 9}, {"steps": 500}, {"epochs": 2, "steps": 9}),
        ({"epochs": 2}, {"min_steps": 7, "max_steps": 50}, {"epochs": 2, "min_steps": 7}),
        ({"epochs": 2, "max_steps": 90}, {"max_steps": 50}, {"epochs": 2, "max_steps": 90}),
        ({"lr": 0.1}, {"max_steps": 50}, {"lr": 0.1, "max_steps": 50}),
    ],
)
def test_epochs_replace_steps_and_limits_that_only_the_defaults_have(
    given_keys: dict[str, Any], defaults: dict[str, Any], filled: dict[str, Any]
) -> None:
    assert fill_stage(given_keys, defaults) == filled


@pytest.mark.parametrize("raw", ["fast", 7, ["joint"], {"joint": 3}, {"jont": {}}])
def test_stages_of_another_type_or_name_are_refused(raw: Any) -> None:
    with pytest.raises(ValidationError):
        StagesSettings.model_validate(raw)


def test_router_is_trained_by_routed_stages_only_and_every_folder_is_its_own() -> None:
    for stage in STAGES.values():
        assert ("router" in stage.trains) is stage.routed
        assert bool(stage.outer_losses) is stage.routed
    folders = [stage.folder for stage in STAGES.values() if stage.routed]
    assert len(set(folders)) == len(folders)


def test_constants_that_are_not_given_keep_their_default() -> None:
    losses = LossSettings(constants={"domain": 3.0})
    assert losses.constants == {"classes": 1.0, "polarity": 1.0, "domain": 3.0, "balance": 0.05}
    assert LossSettings.model_validate(losses.model_dump()) == losses


@pytest.mark.parametrize(
    "wrong", [{"constants": {"sentiment": 1.0}}, {"without": ("classes",)}, {"smoothing": 1.0}, {"inner": "sum"}]
)
def test_losses_that_do_not_exist_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LossSettings.model_validate(wrong)
