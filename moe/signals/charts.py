"""Charts of a signal's page, in the style of all figures."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe.plots.calibration import GREY
from moe.plots.style import BLUE, GREEN, ORANGE, RED, label_panel, panel_grid, to_png
from moe.signals.correlation import Series
from moe.signals.results import EventCurve, SourceEvaluation
from moe.signals.spread import BASIS_POINTS, SpreadSeries

COLOURS = (BLUE, ORANGE)
"""Of the answers and of the lexicon."""


def ic_decay_chart(sources: Sequence[SourceEvaluation]) -> bytes | None:
    """Mean information coefficient by horizon, beside the null of the answers; None without any."""
    if all(row.mean is None for source in sources for row in source.ic):
        return None
    figure, panels = panel_grid("Information coefficient by horizon", 1, 1, 3.2)
    panel = panels[0][0]
    rows = [row for row in sources[0].ic if row.null is not None]
    if rows:
        low, high = zip(*[row.null for row in rows if row.null is not None], strict=True)
        panel.fill_between([row.horizon for row in rows], low, high, color=GREY, alpha=0.3, label="shifted in time")
    for source, colour in zip(sources, COLOURS, strict=False):
        points = [(row.horizon, row.mean) for row in source.ic if row.mean is not None]
        if points:
            panel.plot(*zip(*points, strict=True), "o-", color=colour, label=source.source)
    panel.axhline(0, color="0.5", linewidth=0.8)
    label_panel(panel, "", "sessions of the return", "mean information coefficient")
    return to_png(figure)


def ic_over_time_chart(dates: pd.DatetimeIndex, series: dict[str, Series]) -> bytes | None:
    """Cumulative information coefficient of each source over the sessions; None without any."""
    if not any(np.isfinite(values).any() for values in series.values()):
        return None
    figure, panels = panel_grid("Information coefficient over time", 1, 1, 3.0)
    panel = panels[0][0]
    for (name, values), colour in zip(series.items(), COLOURS, strict=False):
        panel.plot(dates, np.nan_to_num(values).cumsum(), color=colour, label=name)
    panel.axhline(0, color="0.5", linewidth=0.8)
    label_panel(panel, "", "session", "cumulative sum")
    panel.tick_params(axis="x", rotation=30)
    return to_png(figure)


def spread_chart(dates: pd.DatetimeIndex, series: SpreadSeries, quantiles: Sequence[float | None]) -> bytes | None:
    """Mean return of each quantile, and the spread's cumulative return before and after costs; None without any."""
    if not np.isfinite(series.gross).any():
        return None
    figure, panels = panel_grid("Quantiles of the signal", 1, 2, 3.2)
    left, right = panels[0]
    left.bar(range(1, len(quantiles) + 1), [mean or 0 for mean in quantiles], color=BLUE, label="mean return")
    left.set_xticks(range(1, len(quantiles) + 1))
    left.axhline(0, color="0.5", linewidth=0.8)
    label_panel(left, "", "quantile, lowest signals first", "basis points per session")
    for values, colour, name in ((series.gross, GREEN, "before costs"), (series.net, RED, "after costs")):
        right.plot(dates, np.nan_to_num(values).cumsum() * BASIS_POINTS, color=colour, label=name)
    right.axhline(0, color="0.5", linewidth=0.8)
    label_panel(right, "", "session", "sum in basis points")
    right.tick_params(axis="x", rotation=30)
    return to_png(figure)


def event_chart(curves: Sequence[EventCurve]) -> bytes | None:
    """Mean cumulative abnormal return around surprises with its bands; None without any."""
    if not curves:
        return None
    figure, panels = panel_grid("Surprises", 1, 1, 3.2)
    panel = panels[0][0]
    for curve in curves:
        colour = GREEN if curve.direction == "positive" else RED
        panel.fill_between(curve.offsets, curve.low, curve.high, color=colour, alpha=0.15)
        panel.plot(curve.offsets, curve.mean, color=colour, label=f"{curve.direction} ({curve.events:,})")
    panel.axhline(0, color="0.5", linewidth=0.8)
    panel.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
    label_panel(panel, "", "sessions from the surprise", "basis points")
    return to_png(figure)


def volume_chart(dates: pd.DatetimeIndex, texts: Series, novel: Series) -> bytes:
    """Number of texts by session, and of those that repeat none."""
    figure, panels = panel_grid("Texts by session", 1, 1, 2.6)
    panel = panels[0][0]
    panel.plot(dates, texts, color=GREY, linewidth=0.9, label="all")
    panel.plot(dates, novel, color=BLUE, linewidth=0.9, label="novel")
    label_panel(panel, "", "session", "texts")
    panel.tick_params(axis="x", rotation=30)
    return to_png(figure)
