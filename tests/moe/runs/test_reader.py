"""Claims about a run's folder as read: stages in their order, what is finished, and what is no run."""

from pathlib import Path

import pytest
from training_logs import joint_lines, step, write_log, write_run

from moe.errors import Fault
from moe.runs.reader import run_labels, read_run


def test_a_run_tells_its_stages_in_order_its_experts_and_its_seed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("router-warmup", "shared", "another"):
        write_log(run / "logs" / name, step(1))
    found = read_run(run)
    assert list(found.stages) == ["shared", "news", "forum", "another", "router-warmup", "moe-joint"]
    assert found.finished == {"news", "forum", "moe-joint"}
    assert found.experts == ("news", "forum")
    assert found.seed == 42
    assert found.label == "run"
    assert found.evaluations["moe-joint"]["rows"] == 60


def test_logs_alone_are_a_run_too(tmp_path: Path) -> None:
    write_log(tmp_path / "logs" / "news", *joint_lines(10))
    found = read_run(tmp_path)
    assert list(found.stages) == ["news"]
    assert (found.finished, found.experts, found.seed) == (frozenset(), (), None)
    assert found.result == found.summary == found.evaluations == {}


@pytest.mark.parametrize("content", ["seed: [", "seed: many", "- 1", ""])
def test_a_config_that_tells_no_seed_is_passed_over(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "moe-joint" / "config.yaml").write_text(content)
    assert read_run(run).seed is None


def test_what_is_no_run_is_refused_and_the_run_around_it_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Fault, match=r"logs/STEP/log.jsonl.*no such folder.*runs/demo"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(Fault, match="found a file"):
        read_run(tmp_path / "file")
    with pytest.raises(Fault, match="a folder without logs"):
        read_run(tmp_path)
    with pytest.raises(Fault, match=f"Name the run's own folder, {run}"):
        read_run(run / "moe-joint")


def test_a_broken_result_is_refused_by_name(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "result.json").write_text("{")
    with pytest.raises(Fault, match=r"result\.json"):
        read_run(run)
    (run / "result.json").write_text("[1]")
    with pytest.raises(Fault, match=r"JSON object at .*result\.json; found a list"):
        read_run(run)


def test_runs_are_called_by_name_and_by_path_where_the_names_agree() -> None:
    assert run_labels(Path("runs/dao"), Path("runs/constant")) == ("dao", "constant")
    assert run_labels(Path("a/demo"), Path("b/demo")) == ("a/demo", "b/demo")
    with pytest.raises(Fault, match="the same folder"):
        run_labels(Path("runs/demo"), Path("runs/../runs/demo/"))
