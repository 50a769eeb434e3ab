"""The figure that pictures of a run are drawn on, off screen, and its bytes as PNG, the legend where it covers nothing.

What is drawn is `moe.plots.training`' and `moe.plots.results`'.
"""

import io
from typing import TYPE_CHECKING, Any

WHOLE = ("optimizer step", "epoch")
"""What is counted in whole numbers along an axis."""

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def grid(title: str, rows: int, columns: int, height: float) -> tuple["Figure", list[list["Axes"]]]:
    """Empty panels in rows and columns below a title, `height` inches a row."""
    from matplotlib.figure import Figure  # heavy, and only pictures need it; without pyplot it opens no window

    width = {1: 6.5, 2: 10.0, 3: 11.5}.get(columns, 13.0)
    figure = Figure(figsize=(width, rows * height + 0.7), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, alpha=0.25, linewidth=0.6)
        panel.title.set_fontsize(10)
        panel.set_axisbelow(True)
    return figure, [list(row) for row in axes]


def png(figure: "Figure", legend: bool = True) -> bytes:
    """The picture, its legend below the panels, where it covers nothing."""
    if legend:
        handles: dict[str, Any] = {}
        for panel in figure.axes:
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                handles.setdefault(label, handle)
        fit = int(12 * figure.get_figwidth() / (max(map(len, handles), default=0) + 6))  # about 12 letters an inch
        columns = max(1, min(4, fit))
        figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
    for panel in figure.axes:
        if panel.get_xlabel() in WHOLE:
            panel.locator_params(axis="x", integer=True)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return stream.getvalue()
