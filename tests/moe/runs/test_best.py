"""Tests of the best model of a run, as named by `result.json`."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.runs.best import best_model, default_model, write_result
from moe.runs.layout import RESULT


def test_best_model_is_the_named_one_and_without_a_result_the_last(tmp_path: Path) -> None:
    (tmp_path / "moe-init").mkdir()
    (tmp_path / "router-warmup").mkdir()
    assert best_model(tmp_path) == tmp_path / "router-warmup"
    write_result(tmp_path, {}, "moe-init", "it won")
    assert best_model(tmp_path) == default_model(tmp_path) == tmp_path / "moe-init"


@pytest.mark.parametrize("content", ['{"best": "../../elsewhere"}', '{"best": null}', "[]", "{}", "{"])
def test_best_model_refuses_a_result_that_names_anything_else(tmp_path: Path, content: str) -> None:
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(Fault, match=r"result\.json"):
        best_model(tmp_path)


def test_best_model_of_a_run_without_a_mixture_names_the_commands_to_run(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"moe merge"):
        best_model(tmp_path)
