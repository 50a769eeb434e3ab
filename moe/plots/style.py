"""Style of all figures: colours, panels, legends, and rendering to PNG without a window."""

import io
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from experts.atomic_io import write_bytes
from moe.extras import require

BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK = "#222222"
PANEL, TITLE_CHARACTERS, COLUMNS = 3.4, 46, 3
"""Side of a square panel in inches, title characters per panel, and maximum number of panels in a row."""
INTEGER_AXES = ("optimizer step", "epoch")
"""Labels of axes that only have integer ticks."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def panel_grid(
    title: str, rows: int, columns: int, height: float, width: float | None = None
) -> tuple["Figure", list[list["Axes"]]]:
    """Create a figure with empty panels in rows and columns below a title, `height` inches per row.

    Args:
        width: of the figure in inches; by default by the number of columns.
    """
    figure_type = require("matplotlib.figure", "report").Figure  # without pyplot, no window opens

    width = width or {1: 6.5, 2: 10.0, 3: 11.5}.get(columns, 13.0)
    figure = figure_type(figsize=(width, rows * height + 0.7), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, alpha=0.25, linewidth=0.6)
        panel.title.set_fontsize(10)
        panel.set_axisbelow(True)
    return figure, [list(row) for row in axes]


def render_png(figure: "Figure", legend: bool = True) -> bytes:
    """Render a figure as PNG, with one legend for all panels below them."""
    if legend:
        handles: dict[str, Any] = {}
        for panel in figure.axes:
            for handle, style_axes in zip(*panel.get_legend_handles_labels(), strict=True):
                handles.setdefault(style_axes, handle)
        entries = int(12 * figure.get_figwidth() / (max(map(len, handles), default=0) + 6))  # 12 characters per inch
        columns = max(1, min(4, entries))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
    for panel in figure.axes:
        if panel.get_xlabel() in INTEGER_AXES:
            panel.locator_params(axis="x", integer=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()


def square_panels(count: int, title: str) -> tuple[Any, list[Any]]:
    """Create a figure with `count` square panels in rows of at most `COLUMNS`, below a title."""
    figure_type = require("matplotlib.figure", "report").Figure  # without pyplot, no window opens

    columns = min(count, COLUMNS) if count != 4 else 2
    lines = -(-count // columns)
    figure = figure_type(figsize=(PANEL * columns + 0.4, PANEL * lines + 0.5), layout="constrained")
    figure.suptitle(fill(title, TITLE_CHARACTERS * columns), x=0.01, ha="left", fontsize=10)
    axes = [figure.add_subplot(lines, columns, i + 1) for i in range(count)]
    return figure, axes


def style_axes(axis: Any, title: str, xlabel: str, ylabel: str) -> None:
    """Set title, axis labels and grid of a panel, and its legend above it."""
    axis.set_title(title, loc="left", fontsize=10)
    above = {"loc": "lower right", "bbox_to_anchor": (1.02, 0.99), "ncols": 2, "columnspacing": 1.0}
    axis.legend(**above, frameon=False, fontsize=7.5, handletextpad=0.4, handlelength=1.5, borderpad=0.2)
    axis.set_xlabel(xlabel, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.tick_params(labelsize=8)
    axis.grid(color="0.92")
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG, atomically.

    Raises:
        Fault: if the file cannot be written.
    """
    write_bytes(path, encode_png(figure))


def encode_png(figure: Any) -> bytes:
    """Render a figure as PNG as it is."""
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=130)
    return stream.getvalue()
