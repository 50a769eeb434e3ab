"""Pictures of calibration: reliability, and risk against coverage, as PNG; with the style that they share.

What they show is `moe.evaluation.calibrate`'s; they are drawn off screen, by matplotlib.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experts.atomic_io import write_bytes
from moe.bootstrap import confidence_bin, wilson_interval
from moe.plots.style import BLUE, GREEN, PINK, RED, encode_png, style_axes, square_panels

COLOURS = (RED, BLUE, GREEN, PINK)
GREY = "0.45"
CalibrationSeries = Mapping[str, tuple[np.ndarray, np.ndarray]]  # by name: confidence (N,), right (N,)


def write_reliability_chart(path: Path, rows_of: str, tasks: Mapping[str, CalibrationSeries]) -> None:
    """Write `reliability_chart`.

    Raises:
        Fault: when the file cannot be written.
    """
    write_bytes(path, reliability_chart(rows_of, tasks))


def reliability_chart(rows_of: str, tasks: Mapping[str, CalibrationSeries]) -> bytes:
    """How often answers of a confidence are right, before and after, a panel a task; bars are 95 % intervals.

    Args:
        rows_of: which rows are shown.
        tasks: by task: confidence (N,) and right (N,), before and after, or under one name.
    """
    figure, axes = square_panels(
        len(tasks), f"Reliability on {rows_of} rows, with 95 % intervals; on the diagonal confidence is honest"
    )
    for axis, (task, series) in zip(axes, tasks.items(), strict=True):
        axis.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
        lowest = min(float(confidence.min()) for confidence, _ in series.values())
        for colour, mark, (name, one) in zip(COLOURS, "so", series.items(), strict=False):
            _draw_bins(axis, *one, colour=colour, mark=mark, name=name)
        axis.set(xlim=(max(0.0, lowest - 0.05), 1.02), ylim=(0, 1.02))
        style_axes(axis, task, "confidence", "share right")
    return encode_png(figure)


def _draw_bins(axis: Any, confidence: np.ndarray, right: np.ndarray, colour: str, mark: str, name: str) -> None:
    """One dot a bin of confidence with the 95 % interval of its share: long where there are few rows."""
    bins = confidence_bin(confidence)
    for b in np.unique(bins):
        mine = bins == b
        sure, x = wilson_interval(int(right[mine].sum()), int(mine.sum())), confidence[mine].mean()
        axis.plot([x, x], sure.bounds, color=colour, lw=5, alpha=0.22, solid_capstyle="butt")
        axis.plot(x, sure.value, color=colour, marker=mark, ms=5, ls="", label=name)
        name = "_"  # one line of the legend for all dots


def write_risk_coverage_chart(path: Path, tasks: Mapping[str, CalibrationSeries]) -> None:
    """Write `risk_coverage_chart`.

    Raises:
        Fault: when the file cannot be written.
    """
    write_bytes(path, risk_coverage_chart(tasks))


def risk_coverage_chart(tasks: Mapping[str, CalibrationSeries]) -> bytes:
    """The share of wrong answers among those kept, against the share kept, a panel a task.

    Args:
        tasks: by task and split: confidence (N,) and right (N,).
    """
    figure, axes = square_panels(len(tasks), "Wrong answers among those kept, the surest first (and how many rows there are)")
    for axis, (task, series) in zip(axes, tasks.items(), strict=True):
        for colour, style, (name, one) in zip(COLOURS[1:], ("--", "-"), series.items(), strict=False):
            axis.plot(*_risk_by_coverage(*one), color=colour, ls=style, lw=1.6, label=f"{name} ({len(one[0])})")
        axis.set(xlim=(0, 100.5), ylim=(0, None))
        style_axes(axis, task, "kept, %", "wrong, %")
    return encode_png(figure)


def _risk_by_coverage(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage and risk in percent, from 10 rows on (fewer are noise), or from all there are."""
    order = np.argsort(-confidence, kind="stable")
    kept = np.arange(1, len(order) + 1)
    first = min(9, len(order) - 1)
    wrong = np.cumsum(~right[order].astype(bool)) / kept
    return 100 * kept[first:] / len(order), 100 * wrong[first:]
