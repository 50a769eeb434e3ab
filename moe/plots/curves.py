"""Curves from training logs: loss weights by level, their means by epoch, the losses to plot, smoothing."""

from collections.abc import Mapping

import numpy as np

from moe.runs.training_log import LOSSES, Trajectory

LEVELS = ("inner", "outer")
WEIGHT_TITLES = {"lambda": "difficulty λ", "w": "weight w", "c": "product c = n² λ w"}
TrajectoryByRun = Mapping[str, Trajectory]


def weight_columns(log: Trajectory, level: str) -> dict[str, list[str]]:
    """Return panel titles with the logged values in them: λ, w, c, and the applied weights if they are relative.

    Empty if the level has fewer than two losses.
    """
    names = log.names
    columns = {
        title: [name for name in names if name.startswith(f"{level}/{key}_")] for key, title in WEIGHT_TITLES.items()
    }
    for base in ("sentiment", "language"):
        if level == "outer" and f"outer/lambda_{base}" in names:  # otherwise c, or the constant w, is applied
            columns[f"applied ({base} = 1)"] = [name for name in names if name.startswith("weight/")]
    present = {title: own for title, own in columns.items() if own}
    return present if any(len(own) > 1 for own in present.values()) else {}


def epoch_means(log: Trajectory, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the epoch numbers (epochs,), from 1, and the mean of a logged value over the steps of each (epochs,)."""
    values, epochs = log.values(name), np.maximum(np.ceil(log.values("epoch") - 1e-9), 1)
    known = np.isfinite(values) & np.isfinite(epochs)
    numbers = np.unique(epochs[known])
    return numbers, np.array([values[known & (epochs == number)].mean() for number in numbers])


def distinct_losses(runs: TrajectoryByRun) -> list[str]:
    """Return the losses that were logged, sums last, without sums that equal one of their parts at every step."""
    selected: list[str] = []
    for name in reversed(LOSSES):
        is_logged = any(np.isfinite(log.values(name)).any() for log in runs.values())
        if is_logged and not any(
            all(np.array_equal(log.values(name), log.values(other), equal_nan=True) for log in runs.values())
            for other in selected
        ):
            selected.append(name)
    order = ("language", "classes", "polarity", "sentiment", "domain", "balance", "loss")
    return [name for name in order if name in selected]


def evaluated_tasks(log: Trajectory) -> list[str]:
    """Return the tasks that a stage was evaluated on, in order."""
    names = dict.fromkeys(name for evaluation in log.evaluations for name in evaluation)
    return [name.removesuffix("_macro_f1") for name in names if name.endswith("_macro_f1")]


def evaluated_roles(log: Trajectory) -> list[str]:
    """Return the roles on whose text a stage was evaluated, in order."""
    names = dict.fromkeys(name for evaluation in log.evaluations for name in evaluation)
    return [name.removeprefix("perplexity_") for name in names if name.startswith("perplexity_")]


def metric_curve(log: Trajectory, name: str) -> tuple[list[float], list[float]]:
    """Return the steps and the values of a validation metric."""
    evaluations = [evaluation for evaluation in log.evaluations if name in evaluation]
    return [evaluation["step"] for evaluation in evaluations], [evaluation[name] for evaluation in evaluations]


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """Return the mean of `window` values around each value (steps,), of fewer at both ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def smoothing_window(steps: int) -> int:
    """Return the number of steps that a curve is averaged over: an odd number, about a thirtieth of all."""
    return 2 * (steps // 60) + 1
