"""Plots of results: label distribution, heat maps, confusion matrices."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from moe.data.task_reports import TaskReport
from moe.plots.colours import label_colours
from moe.plots.style import panel_grid, to_png
from moe.results.metrics import Confusion

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOUR_MAP = "Greys"
"""Heat maps have shades of grey, since other colours stand for domains and labels."""
DARK, DARK_VALUE = 0.55, 0.7
"""Luminance of a colour below which, and value of a heat map above which, text is white."""
MAX_TICK_CHARACTERS = 34
"""Characters below a panel that fit without rotation."""
LIGHTEST_BLACK = 1.3
"""Value of the heat map's black, so that 1 is dark grey."""
SMALL_SHARE = 0.005
"""Share below which a heat map has a dot."""
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
SPLIT_TITLES = {"train": "train", "validation": "val.", "test": "test"}


def label_distribution_chart(data: Sequence[TaskReport]) -> bytes | None:
    """Plot the label distribution as one stacked bar per task and split; None if there are no labels.

    Args:
        data: report of each task.
    """
    bars = [
        (report.task, split, size.labels)
        for report in data
        for split, size in report.splits.items()
        if sum(size.labels.values())
    ]
    if not bars:
        return None
    figure, axes = panel_grid("label distribution of each split", 1, 1, 0.5 + 0.24 * len(bars))
    panel, colours = axes[0][0], label_colours([label for _, _, counts in bars for label in counts])
    for row, (_, _, counts) in enumerate(bars):
        left = 0.0
        for label, count in counts.items():
            share = count / sum(counts.values())
            panel.barh(row, share, 0.78, left, color=colours[label], label=_legend_entry(label, colours))
            if share >= 0.08:
                style: dict[str, Any] = {"color": _text_colour(colours[label]), "fontsize": 7.5, **CENTRED}
                panel.text(left + share / 2, row, f"{share:.0%}", **style)
            left += share
    names = [f"{task}, {SPLIT_TITLES.get(split, split)} ({sum(counts.values()):,})" for task, split, counts in bars]
    panel.set(yticks=range(len(bars)), yticklabels=names, xlim=(0, 1), xlabel="share of rows")
    panel.set_ylim(len(bars) - 0.4, -0.6)
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(False)
    return to_png(figure, shared_legend=True)


def _legend_entry(label: str, colours: Mapping[str, str]) -> str:
    """Name all labels of a colour, such as those of the negative class in tasks with different labels."""
    return ", ".join(other for other, colour in colours.items() if colour == colours[label])


def _text_colour(background: str) -> str:
    """Return black or white, whichever has more contrast with the background."""
    red, green, blue = (int(background[i : i + 2], 16) / 255 for i in (1, 3, 5))
    return "white" if 0.299 * red + 0.587 * green + 0.114 * blue < DARK else "black"


def heatmap_chart(title: str, table: Mapping[str, Mapping[str, float]], ylabel: str, xlabel: str) -> bytes | None:
    """Plot values in [0, 1], by row and column, as a heat map with percentages in its cells; None if it is empty."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    if not columns:
        return None
    figure, axes = panel_grid(title, 1, 1, 0.7 + 0.42 * len(table), width=6.5 if len(columns) <= 6 else 10.0)
    panel = axes[0][0]
    values = np.array([[row.get(name, np.nan) for name in columns] for row in table.values()])
    _plot_heatmap(panel, values, [[_format_share(value, len(columns)) for value in row] for row in values])
    _label_heatmap(panel, list(table), columns, ylabel, xlabel)
    return to_png(figure)


def _format_share(value: float, columns: int) -> str:
    if value != value:
        return "–"
    return f"{value:.1%}" if columns <= 6 else "·" if value < SMALL_SHARE else f"{value:.0%}"


def confusion_matrix_chart(matrices: Mapping[str, Confusion]) -> bytes | None:
    """Plot the confusion matrix of each task, coloured by the share of the true label's rows; None if there is none.

    Args:
        matrices: by task.
    """
    if not matrices:
        return None
    columns = min(3, len(matrices))
    lines = -(-len(matrices) // columns)
    size = max(len(matrix.labels) for matrix in matrices.values())
    figure, axes = panel_grid("confusion matrix of each task", lines, columns, 1.3 + 0.42 * size)
    panels = [panel for row in axes for panel in row]
    for panel, (task, matrix) in zip(panels, matrices.items(), strict=False):
        labels = matrix.labels
        counts = np.array(matrix.rows, dtype=float)  # (K, K + 1)
        predicted = [*labels, *(["other"] if counts[:, len(labels) :].any() else [])]
        counts = counts[:, : len(predicted)]
        shares = counts / counts.sum(1, keepdims=True).clip(1)
        _plot_heatmap(panel, shares, [[f"{int(count)}" for count in row] for row in counts])
        _label_heatmap(panel, labels, predicted, "true label" if panel in panels[::columns] else "", "predicted label")
        panel.set_title(task, fontsize=10)
    for panel in panels[len(matrices) :]:
        panel.remove()
    return to_png(figure)


def _plot_heatmap(panel: "Axes", values: np.ndarray, cells: Sequence[Sequence[str]]) -> None:
    panel.imshow(values, cmap=COLOUR_MAP, vmin=0, vmax=LIGHTEST_BLACK, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        colour = "white" if value > DARK_VALUE else "black"
        panel.text(column, row, cells[row][column], color=colour, fontsize=8.5, **CENTRED)


def _label_heatmap(panel: "Axes", rows: Sequence[str], columns: Sequence[str], ylabel: str, xlabel: str) -> None:
    panel.set(xticks=range(len(columns)), xticklabels=columns, yticks=range(len(rows)), yticklabels=rows)
    panel.set(ylabel=ylabel, xlabel=xlabel)
    panel.tick_params(length=0, labelsize=8.5)
    panel.grid(False)
    panel.spines[:].set_visible(False)
    if max(map(len, columns)) * len(columns) > MAX_TICK_CHARACTERS:
        panel.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
