"""Pictures of a sweep: a setting's values against quality and against seconds, one picture a setting.

The figures are `moe.sweep.summary`'s. Colours are Okabe and Ito's, which the colour-blind tell apart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

from experts.atomic_io import os_errors_as_faults
from moe.extras import require
from moe.plots.style import BLACK, BLUE, GREEN, ORANGE, PINK, RED, SKY
from moe.sweep.grid import SweepPlan, Values, format_value
from moe.sweep.summary import format_settings

COLOURS = (BLUE, RED, GREEN, PINK, ORANGE, SKY, BLACK)
LEVELS = ("#000000", "#777777")
PANELS = {"macro_f1": "macro-F1", "mse": "MSE of the score"}
MOST_TICKS = 10
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Axis:
    """What a picture runs over.

    Args:
        label: the number that changes: a setting, or one inside its value, as `losses.constants.classes`.
        keys: the settings that change with it.
    """

    label: str
    keys: tuple[str, ...]

    def at(self, settings: Values) -> float | None:
        """The number of a point; None where it has none."""
        return numeric_values({key: settings.get(key) for key in self.keys}).get(self.label)


def numeric_values(values: Values, prefix: str = "") -> dict[str, float]:
    """The numbers in a mapping, by dotted name."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= numeric_values(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{key}"] = float(value)
    return found


def chart_axes(plan: SweepPlan) -> list[Axis]:
    """The numeric settings of a sweep, each with those that are joined to it."""
    found = []
    for values in plan.axes():
        seen: dict[str, set[float]] = {}
        for one in values:
            for name, value in numeric_values(one).items():
                seen.setdefault(name, set()).add(value)
        if moving := [name for name, numbers in seen.items() if len(numbers) > 1]:
            found.append(Axis(moving[0], tuple(values[0])))
    ranges = plan.settings.search.ranges if plan.settings.search else {}
    return found + [Axis(key, (key,)) for key in ranges]


def draw_charts(plan: SweepPlan, content: Mapping[str, Any], out: Path) -> list[Path]:
    """One PNG for each numeric setting; none where no setting is a number.

    Raises:
        Fault: when the folder cannot be written.
    """
    drawn = []
    for axis in chart_axes(plan):
        target = out / f"{axis.label}.png"
        lines = [Line("", content["points"])] if plan.settings.search else group_lines(axis, content)
        with os_errors_as_faults(out):
            _picture(axis, content, lines, target, joined=plan.settings.search is None)
        drawn.append(target)
    return drawn


@dataclass(frozen=True)
class Line:
    """Points that differ in the axis alone, and what is the same in them, in words."""

    label: str
    rows: Sequence[Row]

    def along(self, axis: Axis) -> list[tuple[float, Row]]:
        """Its points that have a number on the axis, in the order of it."""
        found = [(at, row) for row in self.rows if (at := axis.at(row["settings"])) is not None]
        return sorted(found, key=lambda pair: pair[0])

    def beside(self, axis: Axis) -> list[Row]:
        """Its points that have none: drawn level across the picture."""
        return [row for row in self.rows if axis.at(row["settings"]) is None]


def group_lines(axis: Axis, content: Mapping[str, Any]) -> list[Line]:
    """The points sorted into lines by all settings beside the axis."""
    groups: dict[str, list[Row]] = {}
    for row in content["points"]:
        others = {k: v for k, v in row["settings"].items() if k in content["varying"] and k not in axis.keys}
        groups.setdefault(format_settings(others), []).append(row)
    return [Line(label, rows) for label, rows in groups.items()]


def _picture(axis: Axis, content: Mapping[str, Any], lines: Sequence[Line], target: Path, joined: bool) -> None:
    figure_type = require("matplotlib.figure", "report").Figure  # without pyplot, no window opens

    rows = content["points"]
    panels = [name for name in PANELS if any(name in row["test"] or name in row["validation"] for row in rows)]
    figure = figure_type(figsize=(4.4 * (len(panels) + 1), 4.4), layout="constrained")
    places = figure.subplots(1, len(panels) + 1)
    stroke = {"validation": "--", "test": "-", "seconds": "-"} if joined else {}
    for line, colour in zip(lines, cycle(COLOURS), strict=False):
        for place, name in zip(places, panels, strict=False):
            for split in ("validation", "test"):
                _curve(place, axis, line, colour, (split, name), stroke.get(split, "none"))
        _curve(places[-1], axis, line, colour, ("seconds",), stroke.get("seconds", "none"))
    for place, name in zip(places, panels, strict=False):
        _level(place, axis, lines, {"validation": ("validation", name), "test": ("test", name)})
        place.set_ylabel(PANELS[name])
    _level(places[-1], axis, lines, {"test": ("seconds",)})
    places[-1].set_ylabel("training, seconds")
    places[-1].set_ylim(bottom=0)
    for place in places:
        _dress(place, axis, rows)
    _legend(figure, axis, lines, joined)
    figure.suptitle(f"{content['name']}: {axis.label}{_seeds(rows)}", fontsize=11)
    figure.savefig(target, dpi=130)


def _curve(place: Any, axis: Axis, line: Line, colour: str, what: Sequence[str], stroke: str) -> None:
    """One line of means with bars of one sd; hollow points are of validation."""
    found = [(at, one) for at, row in line.along(axis) if (one := _spread_of(row, what)) is not None]
    place.errorbar(
        [at for at, _ in found],
        [one["mean"] for _, one in found],
        yerr=[one["sd"] or 0.0 for _, one in found] if any(one["sd"] for _, one in found) else None,
        color=colour,
        linestyle=stroke,
        marker="o",
        markersize=5,
        markerfacecolor="white" if what[0] == "validation" else colour,
        linewidth=1.4,
        capsize=2.5,
        elinewidth=0.9,
    )


def _spread_of(row: Row, what: Sequence[str]) -> Mapping[str, Any] | None:
    """A figure's mean and sd; None where the point has none."""
    found: Any = row
    for key in what:
        found = None if found is None else found.get(key)
    return found


def _level(place: Any, axis: Axis, lines: Sequence[Line], whats: Mapping[str, Sequence[str]]) -> None:
    """Points without a number on the axis, as level lines: what the numbers are held against."""
    for line in lines:
        for row, colour in zip(line.beside(axis), cycle(LEVELS), strict=False):
            for split, what in whats.items():
                if (one := _spread_of(row, what)) is not None:
                    stroke = "--" if split == "validation" else "-"
                    place.axhline(one["mean"], color=colour, linestyle=stroke, linewidth=1.2)


def _dress(place: Any, axis: Axis, rows: Sequence[Row]) -> None:
    numbers = sorted({at for row in rows if (at := axis.at(row["settings"])) is not None})
    place.set_xlabel(axis.label)
    if numbers and numbers[0] > 0 and numbers[-1] > 10 * numbers[0]:
        place.set_xscale("log")
    if len(numbers) <= MOST_TICKS:
        place.set_xticks(numbers, [format_value(at) for at in numbers])
        place.minorticks_off()
    place.grid(color="0.92")
    place.spines[["top", "right"]].set_visible(False)
    place.tick_params(labelsize=8)


def _legend(figure: Any, axis: Axis, lines: Sequence[Line], joined: bool) -> None:
    """Below the panels, so that it covers nothing: colours for what else differs, strokes for the split."""
    line_type = require("matplotlib.lines", "report").Line2D

    grey: dict[str, Any] = {"color": "0.3", "marker": "o", "markersize": 5}
    handles: list[Any] = [
        line_type([], [], linestyle="--" if joined else "none", markerfacecolor="white", label="validation", **grey),
        line_type([], [], linestyle="-" if joined else "none", label="test", **grey),
    ]
    if len(lines) > 1:
        pairs = zip(lines, cycle(COLOURS), strict=False)
        handles += [line_type([], [], color=colour, marker="o", markersize=5, label=one.label) for one, colour in pairs]
    for line in lines:
        for row, colour in zip(line.beside(axis), cycle(LEVELS), strict=False):
            own = {key: row["settings"][key] for key in axis.keys}
            handles.append(line_type([], [], color=colour, label=", ".join(filter(None, (format_settings(own), line.label)))))
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=8, handlelength=3)


def _seeds(rows: Sequence[Row]) -> str:
    most = max(len(row["seeds"]) for row in rows)
    return f", mean of {most} seeds, bars ± sd" if most > 1 else ", one seed"
