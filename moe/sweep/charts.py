"""Charts of a sweep: metrics and training time by the value of a numeric setting, one chart per setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from experts.atomic_io import os_errors_as_faults
from moe.extras import require
from moe.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY, add_panels, new_figure, save_figure
from moe.sweep.grid import SweepPlan, Values, format_value
from moe.sweep.results import MeanSd, SweepSummary, TrialSummary
from moe.sweep.summary import format_settings

COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)
BASELINE_COLOURS = ("#000000", "#777777")
PANELS = {"macro_f1": "macro-F1", "mse": "MSE of the polarity"}
MAX_TICKS = 10


@dataclass(frozen=True)
class Axis:
    """The x axis of a chart.

    Args:
        label: the number that varies: a setting, or a key inside its value such as `losses.constants.classes`.
        keys: the settings that vary together with it.
    """

    label: str
    keys: tuple[str, ...]

    def position(self, settings: Values) -> float | None:
        """Return the number in a trial's settings; None if it has none."""
        return numeric_values({key: settings.get(key) for key in self.keys}).get(self.label)


def numeric_values(values: Values, prefix: str = "") -> dict[str, float]:
    """Return the numbers in a mapping, by dotted name."""
    numbers: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            numbers |= numeric_values(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            numbers[f"{prefix}{key}"] = float(value)
    return numbers


def chart_axes(plan: SweepPlan) -> list[Axis]:
    """Return an axis for each numeric setting of a sweep, with the settings joined to it."""
    axes = []
    for combinations in plan.axes():
        distinct: dict[str, set[float]] = {}
        for values in combinations:
            for name, number in numeric_values(values).items():
                distinct.setdefault(name, set()).add(number)
        varying = [name for name, numbers in distinct.items() if len(numbers) > 1 and name not in plan.fold_keys]
        if varying:
            axes.append(Axis(varying[0], tuple(combinations[0])))
    ranges = plan.settings.search.ranges if plan.settings.search else {}
    return axes + [Axis(key, (key,)) for key in ranges]


def draw_charts(plan: SweepPlan, summary: SweepSummary, out: Path) -> list[Path]:
    """Write one PNG for each numeric setting and return their paths.

    Raises:
        Fault: if the folder cannot be written.
    """
    paths = []
    for axis in chart_axes(plan):
        path = out / f"{axis.label}.png"
        lines = [Line("", summary.points)] if plan.settings.search else group_lines(axis, summary)
        with os_errors_as_faults(out):
            _draw_chart(axis, summary, lines, path, connected=plan.settings.search is None)
        paths.append(path)
    return paths


@dataclass(frozen=True)
class Line:
    """Trials that differ only along the axis.

    Args:
        label: the settings that they share.
        rows: rows of the trials in the summary.
    """

    label: str
    rows: Sequence[TrialSummary]

    def along(self, axis: Axis) -> list[tuple[float, TrialSummary]]:
        """Return the trials with a number on the axis, sorted by it."""
        positions = [(x, row) for row in self.rows if (x := axis.position(row.settings)) is not None]
        return sorted(positions, key=lambda pair: pair[0])

    def baselines(self, axis: Axis) -> list[TrialSummary]:
        """Return the trials without a number on the axis, drawn as horizontal lines."""
        return [row for row in self.rows if axis.position(row.settings) is None]


def group_lines(axis: Axis, summary: SweepSummary) -> list[Line]:
    """Group the trials into lines by all settings that are not on the axis."""
    groups: dict[str, list[TrialSummary]] = {}
    for row in summary.points:
        others = {k: v for k, v in row.settings.items() if k in summary.varying and k not in axis.keys}
        groups.setdefault(format_settings(others), []).append(row)
    return [Line(label, rows) for label, rows in groups.items()]


def _draw_chart(axis: Axis, summary: SweepSummary, lines: Sequence[Line], path: Path, connected: bool) -> None:
    rows = summary.points
    metrics = [name for name in PANELS if any(name in row.test or name in row.validation for row in rows)]
    title = f"{summary.name}: {axis.label}{_seeds_note(rows)}"
    figure = new_figure(4.4 * (len(metrics) + 1), 4.4, title)
    (panels,) = add_panels(figure, 1, len(metrics) + 1)
    styles = {"validation": "--", "test": "-", "seconds": "-"} if connected else {}
    for line, colour in zip(lines, cycle(COLOURS), strict=False):
        for panel, name in zip(panels, metrics, strict=False):
            for split in ("validation", "test"):
                _plot_line(panel, axis, line, colour, (split, name), styles.get(split, "none"))
        _plot_line(panels[-1], axis, line, colour, ("seconds",), styles.get("seconds", "none"))
    for panel, name in zip(panels, metrics, strict=False):
        _plot_baselines(panel, axis, lines, {"validation": ("validation", name), "test": ("test", name)})
        panel.set_ylabel(PANELS[name])
    _plot_baselines(panels[-1], axis, lines, {"test": ("seconds",)})
    panels[-1].set_ylabel("training time, seconds")
    panels[-1].set_ylim(bottom=0)
    for panel in panels:
        _style_panel(panel, axis, rows)
    _add_legend(figure, axis, lines, connected)
    save_figure(figure, path)


def _plot_line(panel: Any, axis: Axis, line: Line, colour: str, path: Sequence[str], style: str) -> None:
    """Plot means with error bars of one sd; hollow markers are validation."""
    points = [(x, value) for x, row in line.along(axis) if (value := _mean_sd_at(row, path)) is not None]
    panel.errorbar(
        [x for x, _ in points],
        [value.mean for _, value in points],
        yerr=[value.sd or 0.0 for _, value in points] if any(value.sd for _, value in points) else None,
        color=colour,
        linestyle=style,
        marker="o",
        markersize=5,
        markerfacecolor="white" if path[0] == "validation" else colour,
        linewidth=1.4,
        capsize=2.5,
        elinewidth=0.9,
    )


def _mean_sd_at(row: TrialSummary, path: Sequence[str]) -> MeanSd | None:
    """Return the time, or a metric by its split and name; None if the trial has none."""
    if path == ("seconds",):
        return row.seconds
    split, name = path
    return (row.validation if split == "validation" else row.test).get(name)


def _plot_baselines(panel: Any, axis: Axis, lines: Sequence[Line], paths: Mapping[str, Sequence[str]]) -> None:
    for line in lines:
        for row, colour in zip(line.baselines(axis), cycle(BASELINE_COLOURS), strict=False):
            for split, path in paths.items():
                if (value := _mean_sd_at(row, path)) is not None:
                    style = "--" if split == "validation" else "-"
                    panel.axhline(value.mean, color=colour, linestyle=style, linewidth=1.2)


def _style_panel(panel: Any, axis: Axis, rows: Sequence[TrialSummary]) -> None:
    numbers = sorted({x for row in rows if (x := axis.position(row.settings)) is not None})
    panel.set_xlabel(axis.label)
    if numbers and numbers[0] > 0 and numbers[-1] > 10 * numbers[0]:
        panel.set_xscale("log")
        panel.xaxis.set_major_formatter(lambda number, _: format_value(number))  # its own would write formulas
        panel.xaxis.set_minor_formatter("")
    if len(numbers) <= MAX_TICKS:
        panel.set_xticks(numbers, [format_value(number) for number in numbers])
        panel.minorticks_off()


def _add_legend(figure: Any, axis: Axis, lines: Sequence[Line], connected: bool) -> None:
    """Add a legend below the panels: line styles for the split, colours for the settings that are not on the axis."""
    line_type = require("matplotlib.lines", "report").Line2D

    grey: dict[str, Any] = {"color": "0.3", "marker": "o", "markersize": 5}
    handles: list[Any] = [
        line_type([], [], linestyle="--" if connected else "none", markerfacecolor="white", label="validation", **grey),
        line_type([], [], linestyle="-" if connected else "none", label="test", **grey),
    ]
    if len(lines) > 1:
        for line, colour in zip(lines, cycle(COLOURS), strict=False):
            handles.append(line_type([], [], color=colour, marker="o", markersize=5, label=line.label))
    for line in lines:
        for row, colour in zip(line.baselines(axis), cycle(BASELINE_COLOURS), strict=False):
            own = format_settings({key: row.settings[key] for key in axis.keys})
            handles.append(line_type([], [], color=colour, label=", ".join(filter(None, (own, line.label)))))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8, handlelength=3)


def _seeds_note(rows: Sequence[TrialSummary]) -> str:
    seeds = max(len(row.seeds) for row in rows)
    return f", mean of {seeds} seeds, bars ± sd" if seeds > 1 else ", one seed"
