"""Plots of results: label distribution, heat maps, confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, panel_grid, render_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OTHER_COLOURS = (SKY, GREEN, PINK, ORANGE)
GREY, COLOUR_MAP = "#B8B8B8", "Blues"
DARK = 0.55
"""Luminance below which, and value of a heat map above which, text is white."""
LABEL_COLOURS = {"negative": RED, "bearish": RED, "dovish": RED, "down": RED, "neutral": GREY, "flat": GREY}
LABEL_COLOURS |= {"positive": BLUE, "bullish": BLUE, "hawkish": BLUE, "up": BLUE}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
SPLIT_TITLES = {"train": "train", "validation": "val.", "test": "test"}


def label_distribution_chart(data: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Plot the label distribution as one stacked bar per task and split; None if there are no labels.

    Args:
        data: reports of `moe.data.prepare`.
    """
    bars = [
        (report["task"], split, content["labels"])
        for report in data
        for split, content in report.get("splits", {}).items()
        if sum(content.get("labels", {}).values())
    ]
    if not bars:
        return None
    figure, axes = panel_grid("label distribution of each split", 1, 1, 0.5 + 0.24 * len(bars))
    panel, colours = axes[0][0], _label_colours([label for _, _, counts in bars for label in counts])
    left = np.zeros(len(bars))
    for label, colour in colours.items():
        shares = np.array([counts.get(label, 0) / sum(counts.values()) for _, _, counts in bars])
        panel.barh(range(len(bars)), shares, 0.78, left, color=colour, label=label)
        for bar in map(int, np.flatnonzero(shares >= 0.08)):
            middle = left[bar] + shares[bar] / 2
            panel.text(middle, bar, f"{shares[bar]:.0%}", color=_text_colour(colour), fontsize=7.5, **CENTRED)
        left += shares
    names = [f"{task}, {SPLIT_TITLES.get(split, split)} ({sum(counts.values()):,})" for task, split, counts in bars]
    panel.set(yticks=range(len(bars)), yticklabels=names, xlim=(0, 1), xlabel="share of rows")
    panel.tick_params(axis="y", labelsize=8)
    panel.invert_yaxis()
    panel.grid(False)
    return render_png(figure)


def _label_colours(labels: Sequence[str]) -> dict[str, str]:
    """Return a colour for each label: fixed ones for sentiment labels, the others in turn."""
    others = iter([*OTHER_COLOURS] * len(labels))
    return {label: LABEL_COLOURS.get(label) or next(others) for label in dict.fromkeys(labels)}


def _text_colour(background: str) -> str:
    """Return black or white, whichever has more contrast with the background."""
    red, green, blue = (int(background[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < DARK else "black"


def heatmap_chart(title: str, table: Mapping[str, Mapping[str, float]], ylabel: str, xlabel: str) -> bytes | None:
    """Plot values in [0, 1], by row and column, as a heat map with the values in its cells; None if it is empty."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    if not columns:
        return None
    figure, axes = panel_grid(title, 1, 1, 0.7 + 0.42 * len(table))
    values = np.array([[row.get(name, np.nan) for name in columns] for row in table.values()])
    cells = [[f"{value:.1%}" if value == value else "–" for value in row] for row in values]
    _plot_heatmap(axes[0][0], values, cells)
    _label_heatmap(axes[0][0], list(table), columns, ylabel, xlabel)
    return render_png(figure, legend=False)


def confusion_matrix_chart(tasks: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """Plot the confusion matrix of each task, coloured by the share of the true label's rows; None if there is none.

    Args:
        tasks: `confusion` by task, see `moe.evaluation.metrics.classification`.
    """
    matrices = {task: metrics["confusion"] for task, metrics in tasks.items() if "confusion" in metrics}
    if not matrices:
        return None
    columns = min(3, len(matrices))
    lines = -(-len(matrices) // columns)
    size = max(len(matrix["labels"]) for matrix in matrices.values())
    figure, axes = panel_grid("confusion matrix of each task", lines, columns, 1.3 + 0.42 * size)
    panels = [panel for row in axes for panel in row]
    for panel, (task, matrix) in zip(panels, matrices.items(), strict=False):
        labels = matrix["labels"]
        counts = np.array(matrix["rows"], dtype=float)  # (K, K + 1)
        predicted = [*labels, *(["other"] if counts[:, len(labels) :].any() else [])]
        counts = counts[:, : len(predicted)]
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        _plot_heatmap(panel, shares, [[f"{int(count)}" for count in row] for row in counts])
        _label_heatmap(panel, labels, predicted, "true label" if panel in panels[::columns] else "", "predicted label")
        panel.set_title(task, fontsize=10)
    for panel in panels[len(matrices) :]:
        panel.remove()
    return render_png(figure, legend=False)


def _plot_heatmap(panel: "Axes", values: np.ndarray, cells: Sequence[Sequence[str]]) -> None:
    panel.imshow(values, cmap=COLOUR_MAP, vmin=0, vmax=1, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > DARK else "black"
        panel.text(column, row, cells[row][column], color=colour, fontsize=8.5, **CENTRED)


def _label_heatmap(panel: "Axes", rows: Sequence[str], columns: Sequence[str], ylabel: str, xlabel: str) -> None:
    panel.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(len(rows)), yticklabels=rows)
    panel.set(ylabel=ylabel, xlabel=xlabel)
    panel.tick_params(length=0, labelsize=8.5)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    if max(map(len, columns)) * len(columns) > 34:
        panel.tick_params(axis="x", rotation=30)
