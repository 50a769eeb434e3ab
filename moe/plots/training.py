"""Training plots: loss weights, losses, validation metrics, routing weights, time and memory."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.plots.curves import (
    TrajectoryByRun,
    distinct_losses,
    epoch_means,
    evaluated_roles,
    evaluated_tasks,
    metric_curve,
    moving_average,
    smoothing_window,
    weight_columns,
)
from moe.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, panel_grid, render_png
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.training_log import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = (BLUE, ORANGE, GREEN, RED, PINK, SKY)
LOSS_STYLES = {
    "classes": (BLUE, "-"),
    "polarity": (ORANGE, "--"),
    "sentiment": (PINK, "-"),
    "language": (PINK, "-"),
    "domain": (GREEN, "--"),
    "balance": (RED, ":"),
}
"""Colour and line style of each loss; curves of weights often coincide, so colours alone are not enough."""


def weights_chart(title: str, log: Trajectory, level: str) -> bytes | None:
    """Plot λ, w and c of each loss by batch, and their epoch means below (Figure 5 of the DAO paper), for one level.

    None if the level has fewer than two losses. A stage of fewer than two epochs has no row of means.
    """
    columns = weight_columns(log, level)
    if not columns:
        return None
    epochs, _ = epoch_means(log, next(iter(columns.values()))[0])
    rows = 2 if len(epochs) > 1 else 1
    figure, axes = panel_grid(title, rows, len(columns), 2.9)
    for i, (panel_title, names) in enumerate(columns.items()):
        axes[0][i].set(title=panel_title, xlabel="optimizer step")
        for name in names:
            loss = name.split("/")[1].split("_", 1)[-1]
            colour, dashes = LOSS_STYLES.get(loss, (BLACK, "-"))
            style: dict[str, Any] = {"color": colour, "linestyle": dashes, "label": loss}
            axes[0][i].plot(log.values("step"), log.values(name), linewidth=1.4, **style)
            if rows > 1:
                axes[1][i].plot(*epoch_means(log, name), marker="o", markersize=4, **style)
                axes[1][i].set(title="mean of each epoch", xlabel="epoch")
        for row in axes:
            row[i].set_ylim(0, 1.05 * row[i].get_ylim()[1])
    axes[0][0].set_ylabel("each step")
    return render_png(figure)


def losses_chart(title: str, runs: TrajectoryByRun) -> bytes | None:
    """Plot every loss by step, smoothed over the raw values, one colour per run (Figures 6 to 8 of the DAO paper)."""
    names = distinct_losses(runs)
    if not names:
        return None
    columns = {1: 1, 2: 2, 4: 2}.get(len(names), 3)
    figure, axes = panel_grid(title, math.ceil(len(names) / columns), columns, 2.8)
    panels = [panel for row in axes for panel in row]
    for panel, name in zip(panels, names, strict=False):
        panel.set(title="weighted sum (loss)" if name == "loss" else name, xlabel="optimizer step")
        for (label, log), colour in zip(runs.items(), (BLUE, RED), strict=False):
            _plot_curve(panel, log.values("step"), log.values(name), f"{label}: {_smoothing_note(log)}", colour)
    for panel in panels[len(names) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("loss")
    return render_png(figure)


def validation_chart(title: str, runs: TrajectoryByRun) -> bytes | None:
    """Plot validation metrics by step, selected weights marked: macro-F1 and accuracy of each task, or perplexity."""
    (label, log), *others = runs.items()
    if not log.evaluations:
        return None
    if log.selection_metric is PERPLEXITY:
        return _perplexity_chart(title, runs)
    figure, axes = panel_grid(title, 1, 2, 3.4)
    tasks = evaluated_tasks(log)
    suffix = ": mean of the tasks" if len(tasks) > 1 else ""
    for panel, metric, name in zip(axes[0], ("macro_f1", "accuracy"), ("macro-F1", "accuracy"), strict=True):
        panel.set(title=f"validation {name}", xlabel="optimizer step", ylabel=name)
        for task, colour in zip(tasks if len(tasks) > 1 else [], _colour_cycle(), strict=False):
            curve = metric_curve(log, f"{task}_{metric}")
            panel.plot(*curve, "o-", color=colour, linewidth=1, markersize=3, label=task)
        panel.plot(*metric_curve(log, metric), "o-", color=BLACK, linewidth=2, label=f"{label}{suffix}")
        for other, other_log in others:
            curve = metric_curve(other_log, metric)
            panel.plot(*curve, "s--", color="#777777", linewidth=2, label=f"{other}{suffix}")
        _mark_selected(panel, log, metric)
        panel.set_xlim(left=0)
        _widen_ylim(panel)
    return render_png(figure)


def _perplexity_chart(title: str, runs: TrajectoryByRun) -> bytes:
    (label, log), *others = runs.items()
    figure, axes = panel_grid(title, 1, 1, 3.8)
    panel = axes[0][0]
    panel.set(title="perplexity of held-out text", xlabel="optimizer step", ylabel="perplexity")
    for role, colour in zip(evaluated_roles(log), _colour_cycle(), strict=False):
        curve = metric_curve(log, f"perplexity_{role}")
        panel.plot(*curve, "o-", color=colour, linewidth=1, markersize=3, label=role)
    curve = metric_curve(log, PERPLEXITY.name)
    panel.plot(*curve, "o--", color=BLACK, linewidth=2, label=f"{label}: selection metric")
    for other, other_log in others:
        curve = metric_curve(other_log, PERPLEXITY.name)
        panel.plot(*curve, "s--", color="#777777", linewidth=2, label=f"{other}: selection metric")
    _mark_selected(panel, log, PERPLEXITY.name)
    panel.set_xlim(left=0)
    return render_png(figure)


def _widen_ylim(panel: "Axes", minimum: float = 0.04) -> None:
    """Show at least a range of `minimum`, so that noise does not look like progress."""
    low, high = panel.get_ylim()
    if high - low < minimum:
        panel.set_ylim((low + high - minimum) / 2, (low + high + minimum) / 2)


def _mark_selected(panel: "Axes", log: Trajectory, metric: str) -> None:
    best = log.best_evaluation
    if best and metric in best:
        panel.axvline(best["step"], color="#999999", linewidth=0.8, zorder=0)
        point = ([best["step"]], [best[metric]])
        panel.plot(*point, "*", color="#F0E442", markeredgecolor=BLACK, markersize=15, zorder=5, label="selected")


def routing_chart(title: str, runs: TrajectoryByRun, experts: Sequence[str]) -> bytes | None:
    """Plot each expert's mean routing weight by batch, and the share of texts routed to their own domain by step."""
    (label, log), *others = runs.items()
    names = [name for name in log.names if name.startswith("share_")]
    if not names:
        return None
    has_domains = any("routing" in evaluation for evaluation in log.evaluations)
    figure, axes = panel_grid(title, 1, 2 if has_domains else 1, 3.4)
    axes[0][0].set(title=f"routing weights, {_smoothing_note(log)}", ylabel="mean routing weight", ylim=(0, 1))
    axes[0][0].set(xlabel="optimizer step")
    for name, colour in zip(names, _colour_cycle(), strict=False):
        number = int(name.removeprefix("share_"))
        expert = experts[number] if number < len(experts) else f"expert {number}"
        _plot_curve(axes[0][0], log.values("step"), log.values(name), expert, colour)
    if has_domains:
        panel = axes[0][1]
        panel.set(title="validation texts routed to their own domain", xlabel="optimizer step", ylabel="share of texts")
        panel.plot(*metric_curve(log, "routing"), "o-", color=BLACK, linewidth=2, label=f"{label}: domain accuracy")
        for other, other_log in others:
            panel.plot(*metric_curve(other_log, "routing"), "s--", color="#777777", label=f"{other}: domain accuracy")
        panel.set(xlim=(0, None), ylim=(0, 1.03))
    return render_png(figure)


def cost_chart(title: str, rows: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Plot seconds per stage, seconds per step and peak memory as bars, one colour per run.

    Args:
        rows: with `run`, `stage`, and the values of `moe.report.training.stage_rows`.
    """
    titles = {"wall_seconds": "stage (s)", "seconds_per_step": "one step (s, median)", "peak_mib": "peak memory (MiB)"}
    measured = {key: title for key, title in titles.items() if any(row[key] is not None for row in rows)}
    if not measured:
        return None
    stages = list(dict.fromkeys(row["stage"] for row in rows))
    runs = list(dict.fromkeys(row["run"] for row in rows))
    height = 0.8 / len(runs)
    figure, axes = panel_grid(title, 1, len(measured), 1.4 + 0.32 * len(stages) * max(1.0, 0.75 * len(runs)))
    for i, (panel, (key, panel_title)) in enumerate(zip(axes[0], measured.items(), strict=True)):
        for j, (run, colour) in enumerate(zip(runs, (BLUE, RED), strict=False)):
            values = {row["stage"]: row[key] for row in rows if row["run"] == run}
            positions = [k + (j - (len(runs) - 1) / 2) * height for k in range(len(stages))]
            bars = panel.barh(positions, [values.get(s) or 0 for s in stages], height, color=colour, label=run)
            panel.bar_label(bars, [_format_number(values.get(s)) for s in stages], padding=3, fontsize=8)
        panel.set(title=panel_title, yticks=range(len(stages)), yticklabels=stages if i == 0 else [])
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.grid(False, axis="y")
    return render_png(figure, legend=len(runs) > 1)


def _plot_curve(panel: "Axes", steps: np.ndarray, values: np.ndarray, label: str, colour: str) -> None:
    """Plot a smoothed curve, with the raw values in pale behind it."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not len(values):
        return
    window = smoothing_window(len(values))
    if window > 1:
        panel.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7, zorder=1)
    marker = "o" if len(values) == 1 else None
    panel.plot(steps, moving_average(values, window), marker=marker, color=colour, linewidth=1.6, label=label)


def _smoothing_note(log: Trajectory) -> str:
    window = smoothing_window(len(log.rows))
    return "by step" if window == 1 else f"mean over {window} steps (pale: every step)"


def _colour_cycle() -> list[str]:
    return [*COLOURS, "#999999", "#F0E442"] * 8


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
