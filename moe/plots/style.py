"""The one style of all figures: colours, panels, legends, and PNG files, drawn without a window."""

import io
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from experts.atomic_io import write_bytes
from moe.extras import require

BLUE, ORANGE, GREEN, RED, PINK, SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"
BLACK = "#222222"
PANEL, TITLE_CHARACTERS, COLUMNS = 3.4, 36, 3
"""Side of a square panel in inches, title characters per panel, and maximum number of panels in a row."""
DPI, TITLE_SIZE = 130, 10
RC: dict[str, Any] = {
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
"""Sizes of labels, in points."""
INTEGER_AXES = ("optimizer step", "epoch")
"""Labels of axes that only have integer ticks."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def new_figure(width: float, height: float, title: str = "") -> "Figure":
    """Create an empty figure of a size in inches, with a title at its upper left."""
    figure_type = require("matplotlib.figure", "report").Figure  # without pyplot, no window opens
    figure: Figure = figure_type(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def add_panels(figure: "Figure", rows: int, columns: int) -> list[list["Axes"]]:
    """Add empty panels to a figure, in rows and columns, with a light grid and without a frame."""
    with require("matplotlib", "report").rc_context(RC):
        panels = [
            [figure.add_subplot(rows, columns, row * columns + i + 1) for i in range(columns)] for row in range(rows)
        ]
    for panel in (panel for line in panels for panel in line):
        panel.title.set_fontsize(TITLE_SIZE)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(color="0.92", linewidth=0.6)
        panel.set_axisbelow(True)
    return panels


def panel_grid(
    title: str, rows: int, columns: int, height: float, width: float | None = None
) -> tuple["Figure", list[list["Axes"]]]:
    """Create a figure with empty panels in rows and columns below a title, `height` inches per row.

    Args:
        width: of the figure in inches; by default by the number of columns.
    """
    width = width or {1: 6.5, 2: 10.0, 3: 11.5}.get(columns, 13.0)
    figure = new_figure(width, rows * height + 0.7, title)
    return figure, add_panels(figure, rows, columns)


def square_panels(count: int, title: str) -> tuple["Figure", list["Axes"]]:
    """Create a figure with `count` square panels in rows of at most `COLUMNS`, below a title."""
    columns = min(count, COLUMNS) if count != 4 else 2
    lines = -(-count // columns)
    figure = new_figure(PANEL * columns + 0.4, PANEL * lines + 0.5, fill(title, TITLE_CHARACTERS * columns))
    panels = [panel for line in add_panels(figure, lines, columns) for panel in line]
    for panel in panels[count:]:
        panel.remove()
    return figure, panels[:count]


def label_panel(panel: "Axes", title: str, xlabel: str, ylabel: str) -> None:
    """Set title and axis labels of a panel, and its legend above it."""
    panel.set_title(title, loc="left", fontsize=TITLE_SIZE)
    panel.legend(
        loc="lower right",
        bbox_to_anchor=(1.02, 0.99),
        ncols=2,
        columnspacing=1.0,
        frameon=False,
        fontsize=7.5,
        handletextpad=0.4,
        handlelength=1.5,
        borderpad=0.2,
    )
    panel.set_xlabel(xlabel)
    panel.set_ylabel(ylabel)


def add_shared_legend(figure: "Figure") -> None:
    """Add one legend for all panels below them."""
    handles: dict[str, Any] = {}
    for panel in figure.axes:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    entries = int(12 * figure.get_figwidth() / (max(map(len, handles), default=0) + 6))  # 12 characters per inch
    columns = max(1, min(4, entries))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def to_png(figure: "Figure", shared_legend: bool = False) -> bytes:
    """Render a figure as PNG; names of labels and tasks are shown as they are, not as formulas between `$` signs.

    Args:
        shared_legend: add one legend for all panels below them.
    """
    if shared_legend:
        add_shared_legend(figure)
    for panel in figure.axes:
        if panel.get_xlabel() in INTEGER_AXES:
            panel.locator_params(axis="x", integer=True)
    matplotlib = require("matplotlib", "report")
    for text in figure.findobj(matplotlib.text.Text):
        text.set_parse_math(False)
    stream = io.BytesIO()
    with matplotlib.rc_context({"text.parse_math": False}):  # for texts of ticks that are created on drawing
        figure.savefig(stream, format="png", dpi=DPI)
    return stream.getvalue()


def save_figure(figure: "Figure", path: Path, shared_legend: bool = False) -> None:
    """Write a figure as PNG, atomically.

    Args:
        shared_legend: add one legend for all panels below them.

    Raises:
        Fault: if the file cannot be written.
    """
    write_bytes(path, to_png(figure, shared_legend))
