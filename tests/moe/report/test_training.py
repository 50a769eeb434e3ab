"""Tests for the training metrics of a run: stages, losses, two runs, and missing parts."""

import json
from pathlib import Path

import pytest
from training_logs import joint_lines, step_line, write_log, write_run

from experts.json_io import json_object
from moe.report.training import build_training_report, loss_rows, metrics_by_task, stage_rows
from moe.results.metrics import TaskFigures
from moe.runs.reader import read_run


def test_stage_row_has_steps_selected_evaluation_and_cost(tmp_path: Path) -> None:
    (row,) = stage_rows([read_run(write_run(tmp_path / "run"))], "moe-joint")
    assert (row.steps, row.epochs, row.kept_step, row.finished) == (20, 2.0, 10, True)
    assert row.macro_f1 == pytest.approx(0.8)
    assert row.seconds == pytest.approx(0.1 * 210)
    assert row.seconds_per_step == pytest.approx(1.05), "the median"
    assert (row.wall_seconds, row.peak_mib, row.device) == (30.0, 120.0, "cpu")


def test_stage_row_without_logged_seconds_and_memory_has_none(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", timed=False))
    (row,) = stage_rows([run], "news")
    assert row.seconds is row.seconds_per_step is row.peak_mib is row.device is None
    assert row.wall_seconds == 30.0
    assert "run: no seconds and memory in the log (news, forum, moe-joint)." in build_training_report([run]).left_out


def test_loss_rows_are_means_over_first_and_last_tenth(tmp_path: Path) -> None:
    rows = {row.loss: row for row in loss_rows([read_run(write_run(tmp_path / "run"))], "news")}
    assert rows.keys() == {"classes", "polarity", "sentiment", "domain", "balance", "loss"}
    assert rows["classes"].first == pytest.approx((1 + 1 / 2) / 2)
    assert rows["classes"].last == pytest.approx((1 / 19 + 1 / 20) / 2)


def test_report_of_two_runs_pairs_their_stages(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / name, steps)) for name, steps in (("dao", 20), ("constant", 30))]
    write_log(tmp_path / "dao" / "logs" / "shared", step_line(1))
    runs[0] = read_run(tmp_path / "dao")
    report = build_training_report(runs)
    stages = [(row.stage, row.run, row.steps) for row in report.stages]
    assert stages[:3] == [("shared", "dao", 1), ("news", "dao", 20), ("news", "constant", 30)]
    assert report.validation.keys() == report.test.keys() == {"dao", "constant"}
    assert "shared: only in dao." in report.left_out


def test_report_is_json_without_nan(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "stopped", '{"step": 1, "loss": NaN}\n')
    report = build_training_report([read_run(write_run(tmp_path / "run"))])
    decoded = json.loads(json.dumps(report, allow_nan=False, default=json_object))
    assert decoded["best"] == "moe-joint"
    assert decoded["seed"] == {"run": 42}
    assert len(decoded["weights"]["moe-joint"]["inner/w_classes"]) == 2, "one mean per epoch"
    assert decoded["test"]["run"]["majority"]["news"]["accuracy"] == 0.3
    assert decoded["measured"][0]["right_domain"] == 0.95


def test_missing_parts_of_a_run_are_listed(tmp_path: Path) -> None:
    write_log(tmp_path / "run" / "logs" / "news", step_line(1), '{"step": 2, "lo')
    sentences = " ".join(build_training_report([read_run(tmp_path / "run")]).left_out)
    for part in ("no result.json", "no summary.json", "not finished", "no evaluation", "single losses only"):
        assert part in sentences


def test_report_of_a_run_without_logs(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps({"best": "moe-init", "verdict": "so", "validation": {}}))
    report = build_training_report([read_run(tmp_path)])
    assert (report.stages, report.verdict) == ([], "so")
    assert "no stage has a log" in report.left_out[0]


def test_domain_named_macro_is_not_parsed_as_the_metric() -> None:
    tasks = metrics_by_task(
        {"macro_accuracy": 0.1, "macro_macro_f1": 0.2, "a_macro_f1": 0.3, "macro_f1": 0.4, "routing": 1.0}
    )
    assert tasks == {
        "macro": TaskFigures(accuracy=0.1, macro_f1=0.2),
        "a": TaskFigures(macro_f1=0.3),
        "mean": TaskFigures(macro_f1=0.4),
    }
    assert metrics_by_task({"a_accuracy": 0.1, "accuracy": 0.1}) == {"a": TaskFigures(accuracy=0.1)}


def test_stage_without_a_step_has_a_row(tmp_path: Path) -> None:
    write_log(tmp_path / "logs" / "news")
    write_log(tmp_path / "logs" / "forum", *joint_lines(10))
    rows = {row.stage: row for row in build_training_report([read_run(tmp_path)]).stages}
    assert (rows["news"].steps, rows["news"].macro_f1) == (0, None)
