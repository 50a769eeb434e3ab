"""Calibration plots: reliability diagrams and risk–coverage curves, as PNG."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experts.atomic_io import write_bytes
from moe.bootstrap import confidence_bin, wilson_interval
from moe.plots.colours import OTHER_RUN, THIS_RUN
from moe.plots.style import label_panel, square_panels, to_png

COLOURS = (OTHER_RUN, THIS_RUN)
"""Colours of the first of two series (before calibration, or validation rows), and of the second or only one."""
GREY = "0.45"
CalibrationSeries = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By name: confidence (N,) and correct (N,)."""


def write_reliability_chart(path: Path, split: str, tasks: Mapping[str, CalibrationSeries]) -> None:
    """Write `reliability_chart`.

    Raises:
        Fault: if the file cannot be written.
    """
    write_bytes(path, reliability_chart(split, tasks))


def reliability_chart(split: str, tasks: Mapping[str, CalibrationSeries]) -> bytes:
    """Plot accuracy by confidence with 95 % intervals, one panel per task.

    Args:
        split: name of the split, for the title.
        tasks: by task: confidence (N,) and correct (N,), before and after calibration, or a single series.
    """
    figure, axes = square_panels(
        len(tasks), f"Reliability on {split} rows, with 95 % intervals; on the diagonal confidence is calibrated"
    )
    for axis, (task, series) in zip(axes, tasks.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
        lowest = min(float(confidence.min()) for confidence, _ in series.values())
        for colour, marker, (name, (confidence, correct)) in zip(
            COLOURS[-len(series) :], "so", series.items(), strict=False
        ):
            _plot_bins(axis, confidence, correct, colour=colour, marker=marker, name=name)
        axis.set(xlim=(max(0.0, lowest - 0.05), 1.02), ylim=(0, 1.02))
        label_panel(axis, task, "confidence", "accuracy")
    return to_png(figure)


def _plot_bins(axis: Any, confidence: np.ndarray, correct: np.ndarray, colour: str, marker: str, name: str) -> None:
    """Plot the accuracy of each confidence bin with its 95 % interval, which is long where there are few rows."""
    bins = confidence_bin(confidence)
    for b in np.unique(bins):
        in_bin = bins == b
        accuracy, x = wilson_interval(int(correct[in_bin].sum()), int(in_bin.sum())), confidence[in_bin].mean()
        axis.plot([x, x], accuracy.bounds, color=colour, lw=5, alpha=0.22, solid_capstyle="butt")
        axis.plot(x, accuracy.value, color=colour, marker=marker, ms=5, ls="", label=name)
        name = "_"  # one legend entry for all bins


def write_risk_coverage_chart(path: Path, tasks: Mapping[str, CalibrationSeries]) -> None:
    """Write `risk_coverage_chart`.

    Raises:
        Fault: if the file cannot be written.
    """
    write_bytes(path, risk_coverage_chart(tasks))


def risk_coverage_chart(tasks: Mapping[str, CalibrationSeries]) -> bytes:
    """Plot the error rate of the most confident predictions against their share, one panel per task.

    Args:
        tasks: by task and split: confidence (N,) and correct (N,).
    """
    figure, axes = square_panels(
        len(tasks), "Error rate of the most confident predictions by coverage (number of rows)"
    )
    for axis, (task, series) in zip(axes, tasks.items(), strict=True):
        for colour, (name, (confidence, correct)) in zip(_colours(series), series.items(), strict=False):
            coverage, risk = _risk_by_coverage(confidence, correct)
            style = "-" if colour == THIS_RUN else "--"
            axis.plot(coverage, risk, color=colour, ls=style, lw=1.6, label=f"{name} ({len(confidence)})")
        axis.set(xlim=(0, 100.5), ylim=(0, None))
        label_panel(axis, task, "coverage, %", "errors, %")
    return to_png(figure)


def _colours(series: CalibrationSeries) -> tuple[str, ...]:
    return COLOURS if len(series) > 1 else COLOURS[1:]


def _risk_by_coverage(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and risk in percent, from 10 rows on (fewer are noise), or from all rows if there are fewer."""
    order = np.argsort(-confidence, kind="stable")
    counts = np.arange(1, len(order) + 1)
    first = min(9, len(order) - 1)
    errors = np.cumsum(~correct[order].astype(bool)) / counts
    return 100 * counts[first:] / len(order), 100 * errors[first:]
