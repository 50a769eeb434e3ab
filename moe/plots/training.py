"""Pictures of training: weights and losses by step, validation by step, gate shares, seconds and memory.

What the curves are is told by `moe.plots.curves`, the bars' figures are `moe.report.training`'s; here they are only
drawn.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.plots.curves import (
    TrajectoryByRun,
    distinct_losses,
    epoch_means,
    evaluated_roles,
    metric_curve,
    moving_average,
    evaluated_tasks,
    weight_columns,
    smoothing_window,
)
from moe.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, panel_grid, render_png
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.training_log import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)
# A dash pattern beside each colour: weights often lie on one another.
LOSS_STYLES = {
    "classes": (BLUE, "-"),
    "polarity": (ORANGE, "--"),
    "sentiment": (PINK, "-"),
    "language": (PINK, "-"),
    "domain": (GREEN, "--"),
    "balance": (RED, ":"),
}


def weights_chart(title: str, found: Trajectory, level: str) -> bytes | None:
    """Figure 5 of the DAO paper for one level: λ, w and c of each loss by batch, and their means by epoch below.

    None where the level weighs fewer than two losses. A stage below two epochs has no lower row.
    """
    columns = weight_columns(found, level)
    if not columns:
        return None
    epochs, _ = epoch_means(found, next(iter(columns.values()))[0])
    rows = 2 if len(epochs) > 1 else 1
    figure, axes = panel_grid(title, rows, len(columns), 2.9)
    for i, (told, names) in enumerate(columns.items()):
        axes[0][i].set(title=told, xlabel="optimizer step")
        for name in names:
            loss = name.split("/")[1].split("_", 1)[-1]
            colour, dashes = LOSS_STYLES.get(loss, (BLACK, "-"))
            style: dict[str, Any] = {"color": colour, "linestyle": dashes, "label": loss}
            axes[0][i].plot(found.values("step"), found.values(name), linewidth=1.4, **style)
            if rows > 1:
                axes[1][i].plot(*epoch_means(found, name), marker="o", markersize=4, **style)
                axes[1][i].set(title="mean of each epoch", xlabel="epoch")
        for row in axes:
            row[i].set_ylim(0, 1.05 * row[i].get_ylim()[1])
    axes[0][0].set_ylabel("by batch")
    return render_png(figure)


def losses_chart(title: str, runs: TrajectoryByRun) -> bytes | None:
    """Figures 6 to 8 of the DAO paper: every loss by step, smoothed with the raw behind, one colour a run."""
    names = distinct_losses(runs)
    if not names:
        return None
    columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3)
    figure, axes = panel_grid(title, math.ceil(len(names) / columns), columns, 2.8)
    panels = [panel for row in axes for panel in row]
    for panel, name in zip(panels, names, strict=False):
        panel.set(title="weighed sum (loss)" if name == "loss" else name, xlabel="optimizer step")
        for (label, found), colour in zip(runs.items(), (BLUE, RED), strict=False):
            _curve(panel, found.values("step"), found.values(name), f"{label}: {_told(found)}", colour)
    for panel in panels[len(names) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("loss")
    return render_png(figure)


def validation_chart(title: str, runs: TrajectoryByRun) -> bytes | None:
    """Validation by step, the kept weights marked: macro-F1 and accuracy, or perplexity; the mean and each of them."""
    (label, found), *others = runs.items()
    if not found.evaluations:
        return None
    if found.selection_metric is PERPLEXITY:
        return _perplexity_chart(title, runs)
    figure, axes = panel_grid(title, 1, 2, 3.4)
    for panel, metric, told in zip(axes[0], ("macro_f1", "accuracy"), ("macro-F1", "accuracy"), strict=True):
        panel.set(title=f"validation {told}", xlabel="optimizer step", ylabel=told)
        tasks = evaluated_tasks(found)
        for task, colour in zip(tasks if len(tasks) > 1 else [], _cycle(), strict=False):
            panel.plot(*metric_curve(found, f"{task}_{metric}"), "o-", color=colour, linewidth=1, markersize=3, label=task)
        whole = f"{label}: mean of the tasks" if len(tasks) > 1 else label
        panel.plot(*metric_curve(found, metric), "o-", color=BLACK, linewidth=2, label=whole)
        for other, one in others:
            told = f"{other}: mean of the tasks" if len(tasks) > 1 else other
            panel.plot(*metric_curve(one, metric), "s--", color="#777777", linewidth=2, label=told)
        _mark_kept(panel, found, metric)
        panel.set_xlim(left=0)
        _hold_apart(panel)
    return render_png(figure)


def _perplexity_chart(title: str, runs: TrajectoryByRun) -> bytes:
    (label, found), *others = runs.items()
    figure, axes = panel_grid(title, 1, 1, 3.8)
    panel = axes[0][0]
    panel.set(title="perplexity of held-out text", xlabel="optimizer step", ylabel="perplexity")
    for role, colour in zip(evaluated_roles(found), _cycle(), strict=False):
        panel.plot(*metric_curve(found, f"perplexity_{role}"), "o-", color=colour, linewidth=1, markersize=3, label=role)
    panel.plot(*metric_curve(found, PERPLEXITY.name), "o--", color=BLACK, linewidth=2, label=f"{label}: what counts")
    for other, one in others:
        panel.plot(*metric_curve(one, PERPLEXITY.name), "s--", color="#777777", linewidth=2, label=f"{other}: what counts")
    _mark_kept(panel, found, PERPLEXITY.name)
    panel.set_xlim(left=0)
    return render_png(figure)


def _hold_apart(panel: "Axes", least: float = 0.04) -> None:
    """Show no less than `least` of a score's range, so that chance does not look like a climb."""
    low, high = panel.get_ylim()
    if high - low < least:
        panel.set_ylim((low + high - least) / 2, (low + high + least) / 2)


def _mark_kept(panel: "Axes", found: Trajectory, metric: str) -> None:
    kept = found.best_evaluation
    if kept and metric in kept:
        panel.axvline(kept["step"], color="#999999", linewidth=0.8, zorder=0)
        place = ([kept["step"]], [kept[metric]])
        panel.plot(*place, "*", color="#F0E442", markeredgecolor=BLACK, markersize=15, zorder=5, label="kept")


def routing_chart(title: str, runs: TrajectoryByRun, experts: Sequence[str]) -> bytes | None:
    """The mean gate share of each expert by batch, and by step the share of texts that go to their own domain."""
    (label, found), *others = runs.items()
    shares = [name for name in found.names if name.startswith("share_")]
    if not shares:
        return None
    routed = any("routing" in one for one in found.evaluations)
    figure, axes = panel_grid(title, 1, 2 if routed else 1, 3.4)
    axes[0][0].set(title=f"expert shares, {_told(found)}", xlabel="optimizer step", ylabel="share", ylim=(0, 1))
    for name, colour in zip(shares, _cycle(), strict=False):
        number = int(name.removeprefix("share_"))
        told = experts[number] if number < len(experts) else f"expert {number}"
        _curve(axes[0][0], found.values("step"), found.values(name), told, colour)
    if routed:
        panel = axes[0][1]
        panel.set(title="validation texts routed to their own domain", xlabel="optimizer step", ylabel="share of texts")
        panel.plot(*metric_curve(found, "routing"), "o-", color=BLACK, linewidth=2, label=f"{label}: right domain")
        for other, one in others:
            panel.plot(*metric_curve(one, "routing"), "s--", color="#777777", label=f"{other}: right domain")
        panel.set(xlim=(0, None), ylim=(0, 1.03))
    return render_png(figure)


def cost_chart(title: str, rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Seconds of each stage, seconds a step and peak memory as bars, one colour a run.

    Args:
        rows: with `run`, `stage`, and the figures of `moe.report.training.stage_rows`.
    """
    panels = {"wall_seconds": "stage (s)", "seconds_per_step": "one step (s, median)", "peak_mib": "peak memory (MiB)"}
    shown = {key: title for key, title in panels.items() if any(row[key] is not None for row in rows)}
    if not shown:
        return None
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    height = 0.8 / len(runs)
    figure, axes = panel_grid(title, 1, len(shown), 1.4 + 0.32 * len(stages) * max(1.0, 0.75 * len(runs)))
    for i, (panel, (key, told)) in enumerate(zip(axes[0], shown.items(), strict=True)):
        for j, (run, colour) in enumerate(zip(runs, (BLUE, RED), strict=False)):
            figures = {row["stage"]: row[key] for row in rows if row["run"] == run}
            places = [k + (j - (len(runs) - 1) / 2) * height for k in range(len(stages))]
            bars = panel.barh(places, [figures.get(s) or 0 for s in stages], height, color=colour, label=run)
            panel.bar_label(bars, [_short(figures.get(s)) for s in stages], padding=3, fontsize=8)
        panel.set(title=told, yticks=range(len(stages)), yticklabels=stages if i == 0 else [])
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.grid(False, axis="y")
    return render_png(figure, legend=len(runs) > 1)


def _curve(panel: "Axes", steps: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not len(values):
        return
    window = smoothing_window(len(values))
    if window > 1:
        panel.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7, zorder=1)
    marker = "o" if len(values) == 1 else None
    panel.plot(steps, moving_average(values, window), marker=marker, color=colour, linewidth=1.6, label=label)


def _told(found: Trajectory) -> str:
    window = smoothing_window(len(found.rows))
    return "by step" if window == 1 else f"mean of {window} steps, each step behind it"


def _cycle() -> list[str]:
    return [*COLOURS, "#999999", "#F0E442"] * 8


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
