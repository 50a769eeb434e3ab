"""Data settings: invalid ones are refused with a reason, and derived values are right."""

import pytest
from pydantic import ValidationError

from moe.data.schema import Columns, DataSettings, TaskSettings
from moe.data.splitting.settings import SplitSettings

THREE = ("negative", "neutral", "positive")


def test_columns_mapping_leaves_out_ignored_columns() -> None:
    assert "score" not in Columns(score=None).mapping()


def test_columns_require_only_the_text_and_renamed_columns() -> None:
    assert Columns(label="sentiment").required() == {"text", "sentiment"}
    assert Columns(text="headline").required() == {"headline"}


@pytest.mark.parametrize("ratios", [(1,), (1, 1, 1, 1), (0, 1), (5, -1, 2)])
def test_split_settings_refuse_invalid_ratios(ratios: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError, match=r"two \(train, test\) or three|greater than or equal to 0"):
        SplitSettings(ratios=ratios)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("a", "a")}, "each label once"),
        ({"labels": THREE, "label_map": {"利好": "up"}}, "label_map: up not among labels"),
        ({"labels": THREE, "score_cuts": "dao5"}, "3 labels need 2 cuts"),
        ({"labels": THREE, "score_cuts": (0.1, -0.1)}, "ascending"),
        ({"labels": THREE, "score_cuts": (-2.0, 0.1)}, "greater than -1"),
        ({"labels": THREE, "cutoffs": ()}, "cutoffs"),
    ],
)
def test_task_settings_refuse_inconsistent_labels_maps_and_cuts(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSettings.model_validate(settings)


def test_data_settings_resolve_paths_relative_to_the_data_folder() -> None:
    assert DataSettings(folder="data").path("a.csv").as_posix() == "data/a.csv"
    assert DataSettings(folder="data").path("/b.csv").as_posix() == "/b.csv"
