"""Claims about `result.json`: it names one of a run's own mixtures, or the run is refused in a sentence."""

from pathlib import Path

import pytest

from experts.errors import Fault
from moe.runs.best import RESULT, default_model, best_model, resolve_model_folder, write_result


def test_the_mixture_that_was_named_is_the_best_and_without_a_name_the_last(tmp_path: Path) -> None:
    (tmp_path / "moe-init").mkdir()
    (tmp_path / "router-warmup").mkdir()
    assert best_model(tmp_path) == tmp_path / "router-warmup"
    write_result(tmp_path, {}, "moe-init", "it won")
    assert best_model(tmp_path) == default_model(tmp_path) == tmp_path / "moe-init"


@pytest.mark.parametrize("content", ['{"best": "../../elsewhere"}', '{"best": null}', "[]", "{}", "{"])
def test_a_result_that_names_another_place_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / RESULT).write_text(content)
    with pytest.raises(Fault, match=r"result\.json"):
        best_model(tmp_path)


def test_a_run_without_a_mixture_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"moe merge"):
        best_model(tmp_path)


def test_a_runs_folder_stands_for_its_best_mixture_and_any_other_for_itself(tmp_path: Path) -> None:
    run, expert = tmp_path / "run", tmp_path / "run" / "experts" / "news"
    expert.mkdir(parents=True)
    assert [resolve_model_folder(one) for one in (run, expert, tmp_path / "none")] == [run, expert, tmp_path / "none"]
    for name in ("moe-init", "router-warmup"):
        (run / name).mkdir()
    write_result(run, {}, "moe-init", "it won")
    assert [resolve_model_folder(one) for one in (run, run / "router-warmup")] == [run / "moe-init", run / "router-warmup"]
