"""Claims about a run's figures: what they are made of, two runs beside each other, and what is missing is told."""

import json
from pathlib import Path

import pytest
from training_logs import joint_lines, step, write_log, write_run

from moe.report.training import metrics_by_task, loss_rows, build_training_report, stage_rows
from moe.runs.reader import read_run


def test_a_stage_s_row_holds_its_steps_its_kept_evaluation_and_its_cost(tmp_path: Path) -> None:
    (row,) = stage_rows([read_run(write_run(tmp_path / "run"))], "moe-joint")
    assert (row["steps"], row["epochs"], row["kept_step"], row["finished"]) == (20, 2.0, 10, True)
    assert row["macro_f1"] == pytest.approx(0.8)
    assert row["seconds"] == pytest.approx(0.1 * 210)
    assert row["seconds_per_step"] == pytest.approx(1.05), "the median"
    assert (row["wall_seconds"], row["peak_mib"], row["device"]) == (30.0, 120.0, "cpu")


def test_a_log_without_seconds_and_memory_leaves_these_empty(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", timed=False))
    (row,) = stage_rows([run], "news")
    assert row["seconds"] is row["seconds_per_step"] is row["peak_mib"] is row["device"] is None
    assert row["wall_seconds"] == 30.0
    assert "run: no seconds and memory in the log (news, forum, moe-joint)." in build_training_report([run])["left_out"]


def test_losses_are_told_at_both_ends_of_a_stage(tmp_path: Path) -> None:
    rows = {row["loss"]: row for row in loss_rows([read_run(write_run(tmp_path / "run"))], "news")}
    assert rows.keys() == {"classes", "polarity", "sentiment", "domain", "balance", "loss"}
    assert rows["classes"]["first"] == pytest.approx((1 + 1 / 2) / 2)
    assert rows["classes"]["last"] == pytest.approx((1 / 19 + 1 / 20) / 2)


def test_two_runs_stand_beside_each_other_stage_by_stage(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, steps)) for name, steps in (("dao", 20), ("constant", 30))]
    write_log(tmp_path / "dao" / "logs" / "shared", step(1))
    runs[0] = read_run(tmp_path / "dao")
    report = build_training_report(runs)
    told = [(row["stage"], row["run"], row["steps"]) for row in report["stages"]]
    assert told[:3] == [("shared", "dao", 1), ("news", "dao", 20), ("news", "constant", 30)]
    assert report["validation"].keys() == report["test"].keys() == {"dao", "constant"}
    assert "shared: only dao has it." in report["left_out"]


def test_the_report_is_plain_json_without_nan(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "stopped", '{"step": 1, "loss": NaN}\n')
    report = build_training_report([read_run(write_run(tmp_path / "run"))])
    again = json.loads(json.dumps(report, allow_nan=False))
    assert again["best"] == "moe-joint"
    assert again["seed"] == {"run": 42}
    assert len(again["weights"]["moe-joint"]["inner/w_classes"]) == 2, "a mean an epoch"
    assert again["test"]["run"]["majority"]["news"]["accuracy"] == 0.3
    assert again["measured"][0]["right_domain"] == 0.95


def test_what_a_run_lacks_is_a_sentence_and_no_error(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "news", step(1), '{"step": 2, "lo')
    said = " ".join(build_training_report([read_run(tmp_path / "run")])["left_out"])
    for one in ("no result.json", "no summary.json", "not finished", "no evaluation", "one loss at a time"):
        assert one in said


def test_a_run_without_logs_is_still_told(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"best": "moe-init", "verdict": "so", "validation": {}}))
    report = build_training_report([read_run(tmp_path)])
    assert (report["stages"], report["verdict"]) == ([], "so")
    assert "no stage has a log" in report["left_out"][0]


def test_a_domain_called_macro_is_not_taken_for_the_metric() -> None:
    found = metrics_by_task({"macro_accuracy": 0.1, "macro_macro_f1": 0.2, "a_macro_f1": 0.3, "macro_f1": 0.4, "routing": 1.0})
    assert found == {"macro": {"accuracy": 0.1, "macro_f1": 0.2}, "a": {"macro_f1": 0.3}, "mean": {"macro_f1": 0.4}}
    assert metrics_by_task({"a_accuracy": 0.1, "accuracy": 0.1}) == {"a": {"accuracy": 0.1}}


def test_a_stage_that_only_began_is_told(tmp_path: Path) -> None:
    write_log(tmp_path / "logs" / "news")
    write_log(tmp_path / "logs" / "forum", *joint_lines(10))
    rows = {row["stage"]: row for row in build_training_report([read_run(tmp_path)])["stages"]}
    assert (rows["news"]["steps"], rows["news"]["macro_f1"]) == (0, None)
