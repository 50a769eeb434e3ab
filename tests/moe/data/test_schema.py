"""Settings say what is wrong with them, and derive what they promise."""

import pytest
from pydantic import ValidationError

from moe.data.schema import Columns, DataSettings, SplitSettings, TaskSettings

THREE = ("negative", "neutral", "positive")


def test_an_ignored_column_is_not_looked_for():
    assert "score" not in Columns(score=None).names()


def test_only_the_text_and_renamed_columns_are_demanded():
    assert Columns(label="sentiment").demanded() == {"text", "sentiment"}
    assert Columns(text="headline").demanded() == {"headline"}


@pytest.mark.parametrize("ratios", [(1,), (1, 1, 1, 1), (0, 1), (5, -1, 2)])
def test_ratios_that_part_nothing_are_refused(ratios: tuple[float, ...]):
    with pytest.raises(ValidationError, match="parts"):
        SplitSettings(ratios=ratios)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"labels": ("a", "a")}, "each once"),
        ({"labels": THREE, "label_map": {"利好": "up"}}, "leads to up"),
        ({"labels": THREE, "score_cuts": "dao5"}, "3 labels need 2 cuts"),
        ({"labels": THREE, "score_cuts": (0.1, -0.1)}, "ascending"),
        ({"labels": THREE, "score_cuts": (-2.0, 0.1)}, "between -1 and 1"),
        ({"labels": THREE, "cutoffs": ()}, "cutoffs"),
    ],
)
def test_labels_maps_and_cuts_that_disagree_are_refused(wrong: dict[str, object], told: str):
    with pytest.raises(ValidationError, match=told):
        TaskSettings.model_validate(wrong)


def test_files_are_found_below_the_data_folder_unless_absolute():
    assert DataSettings(folder="data").path("a.csv").as_posix() == "data/a.csv"
    assert DataSettings(folder="data").path("/b.csv").as_posix() == "/b.csv"
