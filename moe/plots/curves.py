"""The curves that a trajectory holds: weights by level, their means by epoch, the losses worth showing, smoothing.

How they are drawn is left to `moe.plots.training`.
"""

from collections.abc import Mapping

import numpy as np

from moe.runs.training_log import LOSSES, Trajectory

LEVELS = ("inner", "outer")
WEIGHT_TITLES = {"lambda": "difficulty $\\lambda$", "w": "weight $w$", "c": "product $c = n^2 \\lambda w$"}
TrajectoryByRun = Mapping[str, Trajectory]


def weight_columns(found: Trajectory, level: str) -> dict[str, list[str]]:
    """Panel titles and the figures in them: λ, w, c, and the weights in force where the level's are relative.

    Empty where fewer than two losses are weighed.
    """
    names = found.names
    columns = {title: [n for n in names if n.startswith(f"{level}/{key}_")] for key, title in WEIGHT_TITLES.items()}
    for base in ("sentiment", "language"):
        if level == "outer" and f"outer/lambda_{base}" in names:  # else what is in force is c, or the constant w
            columns[f"in force ({base} = 1)"] = [name for name in names if name.startswith("weight/")]
    full = {title: some for title, some in columns.items() if some}
    return full if any(len(some) > 1 for some in full.values()) else {}


def epoch_means(found: Trajectory, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of the epochs (epochs,), from 1, and the mean of a figure over each one's steps (epochs,)."""
    values, epochs = found.values(name), np.maximum(np.ceil(found.values("epoch") - 1e-9), 1)
    known = np.isfinite(values) & np.isfinite(epochs)
    numbers = np.unique(epochs[known])
    return numbers, np.array([values[known & (epochs == number)].mean() for number in numbers])


def distinct_losses(runs: TrajectoryByRun) -> list[str]:
    """The losses that some step has, the sums last, without those that equal one before them throughout."""
    kept: list[str] = []
    for name in reversed(LOSSES):
        if any(np.isfinite(found.values(name)).any() for found in runs.values()) and not any(
            all(np.array_equal(one.values(name), one.values(other), equal_nan=True) for one in runs.values())
            for other in kept
        ):
            kept.append(name)
    order = ("language", "classes", "polarity", "sentiment", "domain", "balance", "loss")
    return [name for name in order if name in kept]


def evaluated_tasks(found: Trajectory) -> list[str]:
    """The tasks that a stage was evaluated on, in order."""
    names = dict.fromkeys(name for one in found.evaluations for name in one)
    return [name.removesuffix("_macro_f1") for name in names if name.endswith("_macro_f1")]


def evaluated_roles(found: Trajectory) -> list[str]:
    """The roles whose text a stage was evaluated on, in order."""
    names = dict.fromkeys(name for one in found.evaluations for name in one)
    return [name.removeprefix("perplexity_") for name in names if name.startswith("perplexity_")]


def metric_curve(found: Trajectory, name: str) -> tuple[list[float], list[float]]:
    """The steps and values of one validation metric."""
    some = [one for one in found.evaluations if name in one]
    return [one["step"] for one in some], [one[name] for one in some]


def moving_average(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of `window` neighbours around each value (steps,), of fewer at both ends."""
    kernel = np.ones(window)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def smoothing_window(steps: int) -> int:
    """How many neighbouring steps a curve is averaged over: an odd number, about a thirtieth of all."""
    return 2 * (steps // 60) + 1
