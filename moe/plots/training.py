"""Training plots: loss weights, losses, validation metrics, routing weights, time and memory."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.plots.colours import LEVEL, OTHER_RUN, THIS_RUN, DomainColours
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
from moe.plots.style import panel_grid, to_png
from moe.results.evaluation import Levels, MajorityLevel, TfidfLevel
from moe.results.training import StageRow
from moe.runs.selection_metric import PERPLEXITY
from moe.runs.training_log import Trajectory

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STEP = "optimizer step"
METRIC_TITLES = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
LEVEL_STYLES = {"tfidf": ("TF-IDF", "--"), "majority": ("majority", ":")}
LOSS_STYLES: dict[str, dict[str, Any]] = {
    "classes": {"color": OTHER_RUN, "linestyle": "-", "linewidth": 2.6},
    "sentiment": {"color": OTHER_RUN, "linestyle": "-", "linewidth": 2.6},
    "language": {"color": OTHER_RUN, "linestyle": "-", "linewidth": 2.6},
    "polarity": {"color": THIS_RUN, "linestyle": "--", "linewidth": 1.4},
    "domain": {"color": THIS_RUN, "linestyle": "--", "linewidth": 1.4},
    "balance": {"color": THIS_RUN, "linestyle": ":", "linewidth": 1.6},
}
"""Line style of each loss; curves of weights often coincide, so a thin one is drawn on a thick one."""


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
            style = LOSS_STYLES.get(loss, {"color": THIS_RUN}) | {"label": loss}
            axes[0][i].plot(log.values("step"), log.values(name), **style)
            if rows > 1:
                axes[1][i].plot(*epoch_means(log, name), marker="o", markersize=4, **style)
                axes[1][i].set(title="mean of each epoch", xlabel="epoch")
        for row in axes:
            row[i].set_ylim(0, 1.05 * row[i].get_ylim()[1])
    axes[0][0].set_ylabel("each step")
    return to_png(figure, shared_legend=True)


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
        for (label, log), colour in zip(runs.items(), (THIS_RUN, OTHER_RUN), strict=False):
            _plot_curve(panel, log.values("step"), log.values(name), f"{label}: {_smoothing_note(log)}", colour)
    for panel in panels[len(names) :]:
        panel.remove()
    for row in axes:
        row[0].set_ylabel("loss")
    return to_png(figure, shared_legend=True)


def validation_chart(
    title: str, runs: TrajectoryByRun, levels: Levels | None = None, colours: DomainColours | None = None
) -> bytes | None:
    """Plot validation macro-F1 and accuracy by step, with one panel for each of several tasks, or the perplexity.

    Args:
        levels: baselines, drawn as horizontal lines.
        colours: of the tasks.
    """
    log = next(iter(runs.values()))
    if not log.evaluations:
        return None
    if log.selection_metric is PERPLEXITY:
        return _perplexity_chart(title, runs, colours or DomainColours())
    tasks, colours = evaluated_tasks(log), colours or DomainColours()
    colour = THIS_RUN if len(tasks) > 1 else colours.colour(tasks[0]) if tasks else THIS_RUN
    mean = "mean " if len(tasks) > 1 else ""
    panels = [(f"{mean}{name}", metric, tasks, colour) for metric, name in METRIC_TITLES.items()]
    if len(tasks) > 1:
        panels += [(task, f"{task}_macro_f1", [task], colours.colour(task)) for task in tasks]
    columns = 2 if len(panels) <= 4 else 3 if len(panels) <= 6 else 4
    figure, axes = panel_grid(title, math.ceil(len(panels) / columns), columns, 3.4 if len(panels) == 2 else 2.5)
    cells = [panel for row in axes for panel in row]
    for i, (panel, (panel_title, metric, own, line_colour)) in enumerate(zip(cells, panels, strict=False)):
        panel.set_title(panel_title, fontsize=10)
        _plot_validation(panel, runs, metric, line_colour)
        _plot_levels(panel, levels or {}, own, "accuracy" if metric.endswith("accuracy") else "macro_f1")
        if i % columns == 0:
            panel.set_ylabel("macro-F1")
        if i + columns >= len(panels):
            panel.set_xlabel(STEP)
    for panel in cells[len(panels) :]:
        panel.remove()
    return to_png(figure, shared_legend=True)


def _plot_validation(panel: "Axes", runs: TrajectoryByRun, metric: str, colour: str) -> None:
    (label, log), *others = runs.items()
    panel.plot(*metric_curve(log, metric), "o-", color=colour, linewidth=2, markersize=4, label=label)
    for other, other_log in others:
        panel.plot(*metric_curve(other_log, metric), "s--", color=OTHER_RUN, linewidth=2, markersize=4, label=other)
    _mark_selected(panel, log, metric)
    panel.set_xlim(left=0)


def _plot_levels(panel: "Axes", levels: Levels, tasks: Sequence[str], metric: str) -> None:
    """Draw the baselines' mean over the tasks as horizontal lines with their names and values."""
    known = [levels[task] for task in tasks if task in levels]
    baselines: dict[str, list[MajorityLevel] | list[TfidfLevel]] = {
        "tfidf": [level.tfidf for level in known],
        "majority": [level.majority for level in known],
    }
    values = {
        baseline: float(np.mean([its.accuracy if metric == "accuracy" else its.macro_f1 for its in of_tasks]))
        for baseline, of_tasks in baselines.items()
        if known and len(known) == len(tasks)
    }
    for baseline, value in values.items():
        name, line_style = LEVEL_STYLES[baseline]
        panel.axhline(value, color=LEVEL, linestyle=line_style, linewidth=1.2, zorder=1)
        below = value < max(values.values()) or (
            len(values) > 1 and value == min(values.values()) and baseline != "tfidf"
        )
        panel.annotate(
            f"{name} {value:.3f}".replace("0.", ".", 1),
            xy=(0, value),
            xycoords=("axes fraction", "data"),
            xytext=(2, -2 if below else 2),
            textcoords="offset points",
            ha="left",
            va="top" if below else "bottom",
            fontsize=7.5,
            color=LEVEL,
        )
    _widen_ylim(panel, values.values())


def _perplexity_chart(title: str, runs: TrajectoryByRun, colours: DomainColours) -> bytes:
    (label, log), *others = runs.items()
    figure, axes = panel_grid(title, 1, 1, 3.8)
    panel = axes[0][0]
    panel.set(title="perplexity of held-out text", xlabel="optimizer step", ylabel="perplexity")
    for role in evaluated_roles(log):
        style: dict[str, Any] = {"color": colours.colour(role), "linestyle": colours.line_style(role)}
        panel.plot(*metric_curve(log, f"perplexity_{role}"), marker="o", linewidth=1, markersize=3, label=role, **style)
    curve = metric_curve(log, PERPLEXITY.name)
    panel.plot(*curve, "o--", color=THIS_RUN, linewidth=2, label=f"{label}: selection metric")
    for other, other_log in others:
        curve = metric_curve(other_log, PERPLEXITY.name)
        panel.plot(*curve, "s--", color=OTHER_RUN, linewidth=2, label=f"{other}: selection metric")
    _mark_selected(panel, log, PERPLEXITY.name)
    panel.set_xlim(left=0)
    return to_png(figure, shared_legend=True)


def _widen_ylim(panel: "Axes", values: Iterable[float], minimum: float = 0.04) -> None:
    """Show these values too, and a range of at least `minimum`, so that noise does not look like progress."""
    low, high = panel.get_ylim()
    low, high = min([low, *values]), max([high, *values])
    margin = max(minimum - (high - low), 0) / 2 + 0.08 * (high - low)
    panel.set_ylim(low - margin, high + margin)


def _mark_selected(panel: "Axes", log: Trajectory, metric: str) -> None:
    best = log.best_evaluation
    if best and metric in best:
        panel.axvline(best["step"], color="#999999", linewidth=0.8, zorder=0)
        point = ([best["step"]], [best[metric]])
        panel.plot(*point, "*", color="white", markeredgecolor=THIS_RUN, markersize=12, zorder=5, label="selected")


def routing_chart(
    title: str, runs: TrajectoryByRun, experts: Sequence[str], colours: DomainColours | None = None
) -> bytes | None:
    """Plot each expert's mean routing weight by batch, and the share of texts routed to their own domain by step."""
    (label, log), *others = runs.items()
    names = [name for name in log.names if name.startswith("share_")]
    if not names:
        return None
    colours = colours or DomainColours()
    has_domains = any("routing" in evaluation for evaluation in log.evaluations)
    figure, axes = panel_grid(title, 1, 2 if has_domains else 1, 3.8)
    axes[0][0].set(title=f"routing weights, {_smoothing_note(log)}", ylabel="mean routing weight", xlabel=STEP)
    for name in names:
        number = int(name.removeprefix("share_"))
        expert = experts[number] if number < len(experts) else f"expert {number}"
        style = colours.colour(expert), colours.line_style(expert)
        _plot_curve(axes[0][0], log.values("step"), log.values(name), expert, *style)
    axes[0][0].set_ylim(0, min(1.0, 1.05 * axes[0][0].get_ylim()[1]))
    if has_domains:
        panel = axes[0][1]
        panel.set(title="validation texts routed to their own domain", xlabel=STEP, ylabel="share of texts")
        panel.plot(*metric_curve(log, "routing"), "o-", color=THIS_RUN, linewidth=2, label=f"{label}: domain accuracy")
        for other, other_log in others:
            panel.plot(*metric_curve(other_log, "routing"), "s--", color=OTHER_RUN, label=f"{other}: domain accuracy")
        panel.set(xlim=(0, None), ylim=(0, 1.03))
    return to_png(figure, shared_legend=True)


def cost_chart(title: str, rows: Sequence[StageRow], colours: DomainColours | None = None) -> bytes | None:
    """Plot seconds per stage, seconds per step and peak memory as bars.

    Args:
        colours: of a single run's experts; all other bars have the colour of their run.
        rows: of the stages.
    """
    costs: dict[str, Callable[[StageRow], float | None]] = {
        "stage (s)": lambda row: row.wall_seconds,
        "one step (s, median)": lambda row: row.seconds_per_step,
        "peak memory (MiB)": lambda row: row.peak_mib,
    }
    measured = {title: cost for title, cost in costs.items() if any(cost(row) is not None for row in rows)}
    if not measured:
        return None
    stages = list(dict.fromkeys(row.stage for row in rows))
    runs = list(dict.fromkeys(row.run for row in rows))
    height = 0.8 / len(runs)
    figure, axes = panel_grid(title, 1, len(measured), 1.4 + 0.32 * len(stages) * max(1.0, 0.75 * len(runs)))
    for i, (panel, (panel_title, cost)) in enumerate(zip(axes[0], measured.items(), strict=True)):
        for j, (run, colour) in enumerate(zip(runs, (THIS_RUN, OTHER_RUN), strict=False)):
            values = {row.stage: cost(row) for row in rows if row.run == run}
            positions = [k + (j - (len(runs) - 1) / 2) * height for k in range(len(stages))]
            known = colours if colours is not None and len(runs) == 1 else DomainColours()
            own = [known.colour(stage) if known.knows(stage) else colour for stage in stages]
            bars = panel.barh(positions, [values.get(s) or 0 for s in stages], height, color=own, label=run)
            panel.bar_label(bars, [_format_number(values.get(s)) for s in stages], padding=3, fontsize=8)
        panel.set(title=panel_title, yticks=range(len(stages)), yticklabels=stages if i == 0 else [])
        panel.invert_yaxis()
        panel.margins(x=0.2)
        panel.grid(False, axis="y")
    return to_png(figure, shared_legend=len(runs) > 1)


def _plot_curve(
    panel: "Axes", steps: np.ndarray, values: np.ndarray, label: str, colour: str, line_style: str = "-"
) -> None:
    """Plot a smoothed curve, with the raw values in pale behind it."""
    known = np.isfinite(values)
    steps, values = steps[known], values[known]
    if not len(values):
        return
    window = smoothing_window(len(values))
    if window > 1:
        panel.plot(steps, values, color=colour, alpha=0.2, linewidth=0.7, zorder=1)
    style: dict[str, Any] = {"color": colour, "linestyle": line_style, "marker": "o" if len(values) == 1 else None}
    panel.plot(steps, moving_average(values, window), linewidth=1.6, label=label, **style)


def _smoothing_note(log: Trajectory) -> str:
    window = smoothing_window(len(log.rows))
    return "by step" if window == 1 else f"mean over {window} steps (pale: every step)"


def _format_number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
