"""Tests for curves from training logs: weights, epoch means, losses, smoothing."""

from pathlib import Path

import numpy as np
from training_logs import evaluation_line, joint_lines, step_line, write_log

from moe.plots.curves import (
    distinct_losses,
    epoch_means,
    evaluated_tasks,
    metric_curve,
    moving_average,
    smoothing_window,
    weight_columns,
)
from moe.runs.training_log import Trajectory, read_trajectory


def read(folder: Path, *lines: object) -> Trajectory:
    """Write log lines and read them as a trajectory."""
    log = read_trajectory(write_log(folder, *lines))
    assert log is not None
    return log


def test_weight_columns_are_lambda_weight_product_and_outer_weights_in_force(tmp_path: Path) -> None:
    log = read(tmp_path, *joint_lines())
    inner, outer = (list(weight_columns(log, level).values()) for level in ("inner", "outer"))
    pair = ("classes", "polarity")
    assert inner == [[f"inner/{key}_{name}" for name in pair] for key in ("lambda", "w", "c")]
    assert len(outer) == 4
    assert outer[3] == ["weight/sentiment", "weight/domain", "weight/balance"]


def test_weight_columns_of_constant_weights_are_the_weights(tmp_path: Path) -> None:
    constants = {"outer/w_domain": 1.5, "outer/w_balance": 0.05, "weight/domain": 1.5, "weight/balance": 0.05}
    log = read(tmp_path, step_line(1, **constants))
    assert list(weight_columns(log, "outer").values()) == [["outer/w_domain", "outer/w_balance"]]


def test_weight_columns_of_a_single_loss_are_empty(tmp_path: Path) -> None:
    single = {"inner/lambda_classes": 1.0, "inner/w_classes": 1.0, "inner/c_classes": 1.0}
    assert weight_columns(read(tmp_path, step_line(1, **single)), "inner") == {}
    assert weight_columns(read(tmp_path, step_line(1)), "outer") == {}


def test_epoch_means_average_over_the_steps_of_each_epoch(tmp_path: Path) -> None:
    """The last step of an epoch belongs to it; a step without the value is not averaged."""
    lines = [{"step": i, "epoch": i / 2, "loss": 1, "a": value} for i, value in enumerate((2, 4, 6, None, 10), 1)]
    numbers, means = epoch_means(read(tmp_path, *lines), "a")
    assert numbers.tolist() == [1, 2, 3]
    assert means.tolist() == [3, 6, 10]


def test_distinct_losses_drop_a_sum_that_equals_its_only_part(tmp_path: Path) -> None:
    single = read(tmp_path / "a", *({"step": i, "classes": i, "sentiment": i, "loss": i} for i in (1, 2)))
    both = read(tmp_path / "b", *joint_lines())
    assert distinct_losses({"a": single}) == ["classes"]
    assert distinct_losses({"b": both}) == ["classes", "polarity", "sentiment", "domain", "balance", "loss"]
    assert distinct_losses({"a": single, "b": both}) == [
        "classes",
        "polarity",
        "sentiment",
        "domain",
        "balance",
        "loss",
    ]
    assert distinct_losses({}) == []


def test_moving_average_preserves_length_and_constants() -> None:
    assert moving_average(np.full(7, 2.0), 5).tolist() == [2.0] * 7
    assert moving_average(np.array([0.0, 3.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.5]
    assert moving_average(np.array([1.0, 5.0]), 1).tolist() == [1.0, 5.0]


def test_smoothing_window_is_odd_and_grows_with_the_steps() -> None:
    windows = [smoothing_window(steps) for steps in (1, 30, 60, 500, 2000)]
    assert windows == [1, 1, 3, 17, 67]


def test_metric_curve_and_tasks_come_from_the_evaluations(tmp_path: Path) -> None:
    log = read(tmp_path, evaluation_line(10, 0.5), evaluation_line(20, 0.6))
    assert evaluated_tasks(log) == ["news", "forum"]
    assert metric_curve(log, "accuracy") == ([10, 20], [0.6, 0.7])
    assert metric_curve(log, "nothing") == ([], [])
