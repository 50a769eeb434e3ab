"""Tests of reading a run's folder: order of its stages, finished stages, and folders that are not a run."""

from pathlib import Path

import pytest
from training_logs import joint_lines, step_line, write_log, write_run

from moe.errors import Fault
from moe.runs.reader import read_run, run_labels


def test_read_run_returns_ordered_stages_experts_and_seed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    for name in ("router-warmup", "shared", "another"):
        write_log(run / "logs" / name, step_line(1))
    run_logs = read_run(run)
    assert list(run_logs.stages) == ["shared", "news", "forum", "another", "router-warmup", "moe-joint"]
    assert run_logs.finished == {"news", "forum", "moe-joint"}
    assert run_logs.experts == ("news", "forum")
    assert run_logs.seed == 42
    assert run_logs.label == "run"
    assert run_logs.evaluations["moe-init"].rows == 2


def test_read_run_accepts_a_folder_with_logs_only(tmp_path: Path) -> None:
    write_log(tmp_path / "logs" / "news", *joint_lines(10))
    run_logs = read_run(tmp_path)
    assert list(run_logs.stages) == ["news"]
    assert (run_logs.finished, run_logs.experts, run_logs.seed) == (frozenset(), (), None)
    assert (run_logs.result, run_logs.summary, run_logs.evaluations) == (None, None, {})


@pytest.mark.parametrize("content", ["seed: [", "seed: many", "- 1", ""])
def test_read_run_skips_a_config_without_a_seed(tmp_path: Path, content: str) -> None:
    run = write_run(tmp_path / "run")
    (run / "moe-joint" / "config.yaml").write_text(content)
    assert read_run(run).seed is None


def test_read_run_refuses_other_folders_and_names_the_run_around_them(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(Fault, match=r"logs/STEP/log.jsonl.*no such folder.*runs/demo"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(Fault, match="found a file"):
        read_run(tmp_path / "file")
    with pytest.raises(Fault, match="a folder without logs"):
        read_run(tmp_path)
    with pytest.raises(Fault, match=f"Use the run's folder, {run}"):
        read_run(run / "moe-joint")


def test_read_run_refuses_a_broken_result_file(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    (run / "result.json").write_text("{")
    with pytest.raises(Fault, match=r"result\.json"):
        read_run(run)
    (run / "result.json").write_text("[1]")
    with pytest.raises(Fault, match=r"JSON object at .*result\.json; found a list"):
        read_run(run)


def test_run_labels_are_names_or_paths_if_names_are_equal() -> None:
    assert run_labels(Path("runs/dao"), Path("runs/constant")) == ("dao", "constant")
    assert run_labels(Path("a/demo"), Path("b/demo")) == ("a/demo", "b/demo")
    with pytest.raises(Fault, match="the same folder"):
        run_labels(Path("runs/demo"), Path("runs/../runs/demo/"))
