"""Settings of the shared expert: what a trained adapter determines cannot be set beside it."""

import pytest
from pydantic import ValidationError

from moe.config.shared import SharedSettings


@pytest.mark.parametrize("setting", [{"r": 8}, {"alpha": 8}, {"targets": ["query"]}, {"rslora": True}])
def test_init_refuses_settings_that_the_adapter_determines(setting: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=f"{next(iter(setting))}: the adapter of init determines it"):
        SharedSettings.model_validate({"init": "ready"} | setting)


def test_init_refuses_an_empty_name_and_training_settings_of_a_frozen_expert() -> None:
    with pytest.raises(ValidationError, match="init is empty"):
        SharedSettings(init=" ")
    with pytest.raises(ValidationError, match="no effect on a frozen expert"):
        SharedSettings(init="ready", dropout=0.1)
    assert SharedSettings(init="ready", frozen=False, dropout=0.1).dropout == 0.1


@pytest.mark.parametrize(
    "settings",
    [{}, {"r": 4, "alpha": 8.0}, {"init": "ready"}, {"init": "a/b", "frozen": False, "dropout": 0.1}],
)
def test_saved_settings_are_read_again(settings: dict[str, object]) -> None:
    shared = SharedSettings.model_validate(settings)
    assert SharedSettings.model_validate(shared.model_dump(mode="json")) == shared


def test_saved_settings_of_a_fresh_expert_have_no_init() -> None:
    assert set(SharedSettings().model_dump()) == {"r", "alpha", "dropout", "targets", "rslora"}


def test_only_a_trained_expert_is_frozen() -> None:
    assert SharedSettings(init="ready").is_frozen
    assert not SharedSettings(init="ready", frozen=False).is_frozen
    assert not SharedSettings(frozen=True).is_frozen
