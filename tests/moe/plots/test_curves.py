"""Claims about curves: what is weighed is found, means and smoothing are what they say."""

from pathlib import Path

import numpy as np
from training_logs import evaluation, joint_lines, step, write_log

from moe.plots.curves import distinct_losses, epoch_means, metric_curve, moving_average, evaluated_tasks, weight_columns, smoothing_window
from moe.runs.training_log import Trajectory, read_trajectory


def read(folder: Path, *lines: object) -> Trajectory:
    """The trajectory of these lines."""
    found = read_trajectory(write_log(folder, *lines))
    assert found is not None
    return found


def test_both_levels_have_lambda_weight_and_product_and_the_outer_what_is_in_force(tmp_path: Path) -> None:
    found = read(tmp_path, *joint_lines())
    inner, outer = (list(weight_columns(found, level).values()) for level in ("inner", "outer"))
    pair = ("classes", "polarity")
    assert inner == [[f"inner/{key}_{name}" for name in pair] for key in ("lambda", "w", "c")]
    assert len(outer) == 4
    assert outer[3] == ["weight/sentiment", "weight/domain", "weight/balance"]


def test_constants_are_weights_alone(tmp_path: Path) -> None:
    constants = {"outer/w_domain": 1.5, "outer/w_balance": 0.05, "weight/domain": 1.5, "weight/balance": 0.05}
    found = read(tmp_path, step(1, **constants))
    assert list(weight_columns(found, "outer").values()) == [["outer/w_domain", "outer/w_balance"]]


def test_one_loss_alone_has_no_weights_to_show(tmp_path: Path) -> None:
    alone = {"inner/lambda_classes": 1.0, "inner/w_classes": 1.0, "inner/c_classes": 1.0}
    assert weight_columns(read(tmp_path, step(1, **alone)), "inner") == {}
    assert weight_columns(read(tmp_path, step(1)), "outer") == {}


def test_an_epoch_s_mean_is_over_its_own_steps(tmp_path: Path) -> None:
    """The step that ends an epoch belongs to it, and a step without the figure to no mean."""
    lines = [{"step": i, "epoch": i / 2, "loss": 1, "a": value} for i, value in enumerate((2, 4, 6, None, 10), 1)]
    numbers, means = epoch_means(read(tmp_path, *lines), "a")
    assert numbers.tolist() == [1, 2, 3]
    assert means.tolist() == [3, 6, 10]


def test_a_sum_that_equals_its_only_part_is_shown_once(tmp_path: Path) -> None:
    alone = read(tmp_path / "a", *({"step": i, "classes": i, "sentiment": i, "loss": i} for i in (1, 2)))
    both = read(tmp_path / "b", *joint_lines())
    assert distinct_losses({"a": alone}) == ["classes"]
    assert distinct_losses({"b": both}) == ["classes", "polarity", "sentiment", "domain", "balance", "loss"]
    assert distinct_losses({"a": alone, "b": both}) == ["classes", "polarity", "sentiment", "domain", "balance", "loss"]
    assert distinct_losses({}) == []


def test_smoothing_keeps_length_constants_and_ends() -> None:
    assert moving_average(np.full(7, 2.0), 5).tolist() == [2.0] * 7
    assert moving_average(np.array([0.0, 3.0, 6.0]), 3).tolist() == [1.5, 3.0, 4.5]
    assert moving_average(np.array([1.0, 5.0]), 1).tolist() == [1.0, 5.0]


def test_the_window_is_odd_and_grows_with_the_steps() -> None:
    windows = [smoothing_window(steps) for steps in (1, 30, 60, 500, 2000)]
    assert windows == [1, 1, 3, 17, 67]


def test_tasks_and_their_scores_come_from_the_evaluations(tmp_path: Path) -> None:
    found = read(tmp_path, evaluation(10, 0.5), evaluation(20, 0.6))
    assert evaluated_tasks(found) == ["news", "forum"]
    assert metric_curve(found, "accuracy") == ([10, 20], [0.6, 0.7])
    assert metric_curve(found, "nothing") == ([], [])
