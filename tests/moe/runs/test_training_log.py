"""Tests of the training log: one row per optimizer step, complete files, null for values that were not logged."""

import json
import math
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import Make
from signals import LONG_STAGE, interrupt_at
from training_logs import step_line, write_log

from moe.errors import Fault, Interrupted
from moe.runs.training_log import LOG, LOSSES, PARQUET, read_trajectory, write_trajectory
from moe.training import callbacks
from moe.training.callbacks import JsonLog, StepTimer
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_router


def test_training_log_has_one_row_per_step_with_all_values(make_work: Make) -> None:
    work = make_work()
    for domain in work.run.domains:
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    for name in ("news", "forum", "router-warmup", "moe-joint"):
        table = pq.read_table(work.logs(name) / PARQUET)
        assert table["step"].to_pylist() == [1, 2, 3, 4, 5, 6]
        assert set(LOSSES) | {"epoch", "grad_norm", "learning_rate", "lr/heads"} <= set(table.column_names)
        assert {"inner/lambda_classes", "inner/w_polarity", "inner/c_classes", "inner/alpha"} <= set(table.column_names)
        assert min(table["seconds"].to_pylist()) > 0
        peaks = table["memory_mib"].to_pylist()
        # The kernel counts pages per thread, so that a peak may be read a few pages too low.
        assert all(later > earlier - 1 for earlier, later in pairwise(peaks))
        assert set(table["device"].to_pylist()) == {"cuda" if torch.cuda.is_available() else "cpu"}
    assert table["share_1"].null_count == 0
    assert {"outer/w_domain", "outer/beta", "weight/balance", "lr/router"} <= set(table.column_names)
    assert pq.read_table(work.logs("news") / PARQUET)["domain"].null_count == 6, "a single expert has no domain loss"
    assert not list(work.out.rglob("*.partial"))


def test_training_log_has_the_learning_rate_used_in_the_step(make_work: Make) -> None:
    work = make_work(stages={"expert": {"lr": 0.01, "head_lr": 0.002, "warmup": 2, "steps": 4}})
    train_domain(work, "news")
    log = read_trajectory(work.logs("news"))
    assert log is not None
    assert log.values("lr/experts").tolist() == pytest.approx(log.values("learning_rate").tolist())
    assert log.values("lr/heads").tolist() == pytest.approx([0.2 * rate for rate in log.values("lr/experts")])


def test_training_log_of_a_resumed_stage_has_each_step_once(make_work: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    work = make_work("stopped", **LONG_STAGE)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Interrupted):
            train_domain(work, "news")
    assert not (work.logs("news") / PARQUET).exists()
    stopped = read_trajectory(work.logs("news"))
    assert stopped is not None
    assert stopped.values("step").tolist() == [1, 2, 3, 4, 5, 6]
    with (work.logs("news") / LOG).open("a") as stream:
        stream.write('{"step": 7, "loss": 99}\n{"step": 8, "lo')  # a kill after the checkpoint
    train_domain(work, "news", resume=True)
    table = pq.read_table(work.logs("news") / PARQUET)
    assert table["step"].to_pylist() == list(range(1, 13))
    assert 99 not in table["loss"].to_pylist()


def test_training_log_discards_steps_after_the_resumed_checkpoint(tmp_path: Path) -> None:
    discarded = {"step": 4, "eval_macro_f1": 0.9}
    logs = write_log(
        tmp_path, *map(step_line, (1, 2, 3, 4)), discarded, step_line(3, loss=5.0), {"step": 3, "eval_macro_f1": 0.5}
    )
    log = read_trajectory(logs)
    assert log is not None
    assert log.values("loss").tolist() == [1.0, 0.5, 5.0]
    assert log.evaluations == [{"step": 3, "macro_f1": 0.5}]


def test_training_log_sums_wall_time_and_returns_the_first_best_evaluation(tmp_path: Path) -> None:
    scores = [{"step": number, "eval_macro_f1": score} for number, score in ((1, 0.4), (2, 0.7), (3, 0.7))]
    ends = [{"step": 2, "train_runtime": 2.5}, {"step": 3, "train_runtime": 1.5}]
    log = read_trajectory(write_log(tmp_path, *scores, *ends))
    assert log is not None
    assert log.wall_seconds == 4.0
    assert log.best_evaluation == {"step": 2, "macro_f1": 0.7}


def test_training_log_skips_broken_and_unknown_lines(tmp_path: Path) -> None:
    log = read_trajectory(
        write_log(tmp_path, step_line(1), "\n", "nonsense\n", "[1]\n", '{"loss": 1}\n', step_line(2), '{"step": 3, ')
    )
    assert log is not None
    assert log.values("step").tolist() == [1, 2]


def test_training_log_writes_null_for_missing_and_non_finite_values(tmp_path: Path) -> None:
    logs = write_log(
        tmp_path, step_line(1, polarity=0.5), '{"step": 2, "loss": NaN, "grad_norm": Infinity}\n', step_line(3)
    )
    assert write_trajectory(logs) == logs / PARQUET
    table = pq.read_table(logs / PARQUET)
    assert table["polarity"].to_pylist() == [0.5, None, None]
    assert table["loss"].to_pylist() == [1.0, None, pytest.approx(1 / 3)]
    assert table["grad_norm"].null_count == table["seconds"].null_count == 3
    assert str(table.schema.field("grad_norm").type) == "double"


def test_training_log_from_parquet_equals_that_from_json_lines(tmp_path: Path) -> None:
    logs = write_log(tmp_path, step_line(1, polarity=0.5), step_line(2))
    write_trajectory(logs)
    before = read_trajectory(logs)
    (logs / LOG).unlink()
    after = read_trajectory(logs)
    assert before is not None
    assert after is not None
    assert after.rows == before.rows


def test_training_log_is_none_without_a_log_and_refuses_a_broken_table(tmp_path: Path) -> None:
    assert read_trajectory(tmp_path) is None
    assert write_trajectory(tmp_path) is None
    assert write_trajectory(write_log(tmp_path / "empty")) is None
    (tmp_path / PARQUET).write_bytes(b"no table")
    with pytest.raises(Fault, match="complete Parquet file"):
        read_trajectory(tmp_path)


def test_step_timer_excludes_evaluations_and_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 13.0, 14.0, 20.0, 50.0, 52.0])
    monkeypatch.setattr(callbacks, "perf_counter", lambda: next(now))
    clock, rest = StepTimer(torch.device("cpu")), (None, None, None)
    clock.on_train_begin(*rest)  # 10
    assert clock.read()["seconds"] == 3
    clock.on_log(*rest)  # 14
    clock.on_evaluate(*rest)  # 20
    clock.on_save(*rest)  # 50
    assert clock.read()["seconds"] == 2


def test_memory_on_a_gpu_is_the_peak_of_the_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = {"bytes": 5 * 2**30}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: peak["bytes"])
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update(bytes=2**20))
    clock = StepTimer(torch.device("cuda", 0))
    assert clock.read()["memory_mib"] == 5 * 1024
    clock.on_train_begin(None, None, None)
    assert clock.read()["memory_mib"] == 1


def test_memory_on_a_cpu_is_that_of_the_stage_where_the_peak_can_be_reset(tmp_path: Path) -> None:
    clock, rest = StepTimer(torch.device("cpu")), (None, None, None)
    clock.on_train_begin(*rest)
    assert np.ones(300 * 2**17).sum() > 0  # a large stage: 300 MiB, given back at once
    large = clock.read()["memory_mib"]
    clock.on_train_begin(*rest)
    small = clock.read()["memory_mib"]
    assert 50 < small < 1_000_000, "MiB"
    JsonLog(tmp_path / LOG, clock).on_log(None, SimpleNamespace(global_step=1), None, {"memory_mib": small})
    (line,) = [json.loads(line) for line in (tmp_path / LOG).read_text().splitlines()]
    if sys.platform == "linux" and clock.memory_of == "process":
        assert large - small > 200
        assert line["memory_of"] == "stage"
    else:
        assert line["memory_of"] == "process"


def test_memory_on_a_cpu_is_that_of_the_process_where_the_peak_cannot_be_reset(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError

    clock = StepTimer(torch.device("cpu"))
    with monkeypatch.context() as patch:
        patch.setattr("moe.profiling.Path.write_text", refuse)
        patch.setattr("moe.profiling.Path.read_text", refuse)
        clock.on_train_begin(None, None, None)
        here = clock.read()["memory_mib"]
        patch.setitem(sys.modules, "resource", None)  # importing it fails, as on Windows
        assert "memory_mib" not in clock.read()
    JsonLog(tmp_path / LOG, clock).on_log(None, SimpleNamespace(global_step=1), None, {"memory_mib": here})
    assert json.loads((tmp_path / LOG).read_text())["memory_of"] == "process"


def test_json_log_writes_null_instead_of_nan(tmp_path: Path) -> None:
    writer = JsonLog(tmp_path / "logs" / LOG, StepTimer(torch.device("cpu")))
    state = SimpleNamespace(global_step=1)
    writer.on_log(None, state, None, {"loss": math.nan, "memory_mib": 5.0})
    writer.on_log(None, state, None, {"eval_macro_f1": 0.5})
    lines = [json.loads(line) for line in (tmp_path / "logs" / LOG).read_text().splitlines()]
    assert lines[0] == {"step": 1, "loss": None, "memory_mib": 5.0, "memory_of": "process", "device": "cpu"}
    assert lines[1] == {"step": 1, "eval_macro_f1": 0.5}
