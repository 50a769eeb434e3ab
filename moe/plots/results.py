"""Pictures of what a run came to: the labels it learned, shares as tables of colour, what was mistaken for what.

The figures are `moe.runs.findings`'; pictures of training are `moe.plots.training`', of calibration
`moe.plots.calibration`'.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, panel_grid, render_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHER_COLOURS = (SKY, GREEN, PINK, ORANGE)
GREY, DARK, MAP = "#B8B8B8", 0.55, "Blues"
LABEL_COLOURS = {"negative": RED, "bearish": RED, "dovish": RED, "down": RED, "neutral": GREY, "flat": GREY}
LABEL_COLOURS |= {"positive": BLUE, "bullish": BLUE, "hawkish": BLUE, "up": BLUE}
MIDDLE: dict[str, Any] = {"ha": "center", "va": "center"}
SHORT = {"train": "train", "validation": "val.", "test": "test"}


def label_distribution_chart(data: Sequence[Mapping[str, Any]]) -> bytes | None:
    """The shares of each label in every split of every task, a bar a split, with its rows.

    Args:
        data: reports of `moe.data.prepare`.
    """
    bars = [
        (one["task"], split, part["labels"])
        for one in data
        for split, part in one.get("splits", {}).items()
        if sum(part.get("labels", {}).values())
    ]
    if not bars:
        return None
    figure, axes = panel_grid("labels of each split", 1, 1, 0.5 + 0.24 * len(bars))
    panel, colours = axes[0][0], _colours([label for _, _, counts in bars for label in counts])
    left = np.zeros(len(bars))
    for label, colour in colours.items():
        shares = np.array([counts.get(label, 0) / sum(counts.values()) for _, _, counts in bars])
        panel.barh(range(len(bars)), shares, 0.78, left, color=colour, label=label)
        for place in map(int, np.flatnonzero(shares >= 0.08)):
            middle = left[place] + shares[place] / 2
            panel.text(middle, place, f"{shares[place]:.0%}", color=_text_colour(colour), fontsize=7.5, **MIDDLE)
        left += shares
    names = [f"{task}, {SHORT.get(split, split)} ({sum(counts.values()):,})" for task, split, counts in bars]
    panel.set(yticks=range(len(bars)), yticklabels=names, xlim=(0, 1), xlabel="share of rows")
    panel.tick_params(axis="y", labelsize=8)
    panel.invert_yaxis()
    panel.grid(False)
    return render_png(figure)


def _colours(labels: Sequence[str]) -> dict[str, str]:
    """A colour a label: signs have theirs, others one after the other."""
    free = iter([*OTHER_COLOURS] * len(labels))
    return {label: LABEL_COLOURS.get(label) or next(free) for label in dict.fromkeys(labels)}


def _text_colour(colour: str) -> str:
    """Black or white, whichever is read more easily on a colour."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < DARK else "black"


def heatmap_chart(title: str, table: Mapping[str, Mapping[str, float]], rows: str, columns: str) -> bytes | None:
    """Shares in [0, 1] as a table of colours with their figures: by row, by column."""
    names = list(dict.fromkeys(name for shares in table.values() for name in shares))
    if not names:
        return None
    figure, axes = panel_grid(title, 1, 1, 0.7 + 0.42 * len(table))
    values = np.array([[shares.get(name, np.nan) for name in names] for shares in table.values()])
    _heat(axes[0][0], values, [[f"{value:.1%}" if value == value else "–" for value in row] for row in values])
    _named(axes[0][0], list(table), names, rows, columns)
    return render_png(figure, legend=False)


def confusion_matrix_chart(tasks: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """What the rows of each label were called, a panel a task: the colour is the share of the label's rows.

    Args:
        tasks: by task `confusion`, of `moe.evaluation.metrics.classification`.
    """
    found = {task: one["confusion"] for task, one in tasks.items() if "confusion" in one}
    if not found:
        return None
    columns = min(3, len(found))
    lines = -(-len(found) // columns)
    widest = max(len(one["labels"]) for one in found.values())
    figure, axes = panel_grid("what the rows of each label were called", lines, columns, 1.3 + 0.42 * widest)
    panels = [panel for row in axes for panel in row]
    for panel, (task, one) in zip(panels, found.items(), strict=False):
        counts = np.array(one["rows"], dtype=float)  # (K, K + 1)
        called = [*one["labels"], *(["other"] if counts[:, len(one["labels"]) :].any() else [])]
        counts = counts[:, : len(called)]
        _heat(
            panel, counts / counts.sum(1, keepdims=True).clip(1), [[f"{int(value)}" for value in row] for row in counts]
        )
        _named(panel, one["labels"], called, "label" if panel in panels[::columns] else "", "called")
        panel.set_title(task, fontsize=10)
    for panel in panels[len(found) :]:
        panel.remove()
    return render_png(figure, legend=False)


def _heat(panel: "Axes", values: np.ndarray, told: Sequence[Sequence[str]]) -> None:
    panel.imshow(values, cmap=MAP, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        ink = "white" if value > DARK else "black"
        panel.text(column, row, told[row][column], color=ink, fontsize=8.5, **MIDDLE)


def _named(panel: "Axes", rows: Sequence[str], columns: Sequence[str], left: str, below: str) -> None:
    panel.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(len(rows)), yticklabels=rows)
    panel.set(ylabel=left, xlabel=below)
    panel.tick_params(length=0, labelsize=8.5)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    if max(map(len, columns)) * len(columns) > 34:
        panel.tick_params(axis="x", rotation=30)
