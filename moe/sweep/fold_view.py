"""The folds of a sweep as one table, in a file and in the terminal, and as one picture over time."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import cycle
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.drift.comparison import UNLIKE
from moe.extras import require
from moe.plots.calibration import GREY
from moe.plots.style import BLACK, RED, label_panel, panel_grid, save_figure
from moe.report.blocks import format_cells
from moe.sweep.charts import COLOURS, PANELS
from moe.sweep.folds import drift_verdict, group_folds, mean_over_folds, strongest_drift
from moe.sweep.results import FoldMeasures, FoldRow, SweepSummary

DISTANCE = "distance"
"""The measure of drift that is shown: of the distances of texts from the training texts."""
METRICS = {"accuracy": "accuracy", **PANELS}


def fold_record(row: FoldRow) -> dict[str, object]:
    """Return a fold as a row of `folds.csv`."""
    measures, drift = row.measures, strongest_drift(row.measures, DISTANCE)
    record: dict[str, object] = {"point": row.point, **row.settings, "fold": measures.fold}
    for split in ("train", "validation", "test"):
        first, last = (measures.periods or {}).get(split, ("", ""))
        record |= {f"{split}_from": first, f"{split}_to": last, f"{split}_rows": measures.rows[split]}
    for name in _metrics([row]):
        record |= {name: row.test[name].mean, f"{name}_sd": row.test[name].sd}
        record |= {f"{name}_tfidf": measures.tfidf.value(name), f"{name}_majority": measures.majority.value(name)}
    record |= {"drift": None if drift is None else drift.value, "drift_limit": None if drift is None else drift.limit}
    return record | {"verdict": drift_verdict(measures), "seeds": row.seeds}


def _metrics(rows: Sequence[FoldRow]) -> list[str]:
    """Metrics that are shown: those of labels, or of scores if no row has a label."""
    names = [name for name in METRICS if any(name in row.test for row in rows)]
    return [name for name in names if name != "mse"] or names


def fold_view(summary: SweepSummary) -> RenderableType:
    """Table that `moe sweep` prints of folds: a row for each, and their means."""
    metrics = _metrics(summary.folds)
    title = f"sweep {summary.name}, until {summary.until}: test rows of each fold"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    groups = group_folds(summary.folds)
    for name in ("trial",) if len(groups) > 1 else ():
        table.add_column(name, overflow="fold", min_width=8)
    for name in ("fold", "trained on", "tested on", "rows"):
        table.add_column(name, justify="left" if name.endswith("on") else "right")
    for name in metrics:
        table.add_column(METRICS[name], justify="right")
        table.add_column(f"{METRICS[name]}\nTF-IDF", justify="right")
    table.add_column("accuracy\nmajority", justify="right")
    table.add_column("drift\n/ limit", justify="right")
    for label, rows in groups.items():
        trial = [label] if len(groups) > 1 else []
        for row in rows:
            table.add_row(*trial, *_cells(row, metrics))
        means = [[value(row) for row in rows] for name in metrics for value in (_model(name), _tfidf(name))]
        means += [[row.measures.majority.accuracy for row in rows]]
        cells = format_cells(*[(mean_over_folds(values), ".3f") for values in means])
        table.add_section()
        table.add_row(*["" for _ in trial], "mean", "", "", "", *cells, "", end_section=True)
    return Group(table, *[Text(line) for line in _remarks(summary)])


def _model(name: str) -> Any:
    return lambda row: row.test[name].mean if name in row.test else None


def _tfidf(name: str) -> Any:
    return lambda row: row.measures.tfidf.value(name)


def _cells(row: FoldRow, metrics: Sequence[str]) -> list[RenderableType]:
    measures = row.measures
    values = [value(row) for name in metrics for value in (_model(name), _tfidf(name))]
    values.append(measures.majority.accuracy)
    drift, unlike = strongest_drift(measures, DISTANCE), drift_verdict(measures) == UNLIKE
    shown = "–" if drift is None else f"{drift.value:.2f} / {drift.limit:.2f}{' unlike' if unlike else ''}"
    return [
        str(measures.fold),
        *(_span(measures, split) for split in ("train", "test")),
        f"{measures.rows['train']:,}\n{measures.rows['test']:,}",
        *format_cells(*[(value, ".3f") for value in values]),
        Text(shown, style="bold" if unlike else ""),
    ]


def _span(measures: FoldMeasures, split: str) -> str:
    first, last = (measures.periods or {}).get(split, ("", ""))
    return f"{first[:10]}\n{last[:10]}" if first else "–"


def _remarks(summary: SweepSummary) -> list[str]:
    lines = []
    for label, rows in group_folds(summary.folds).items():
        pairs = [(row.test["macro_f1"].mean, row.measures.tfidf.macro_f1) for row in rows if "macro_f1" in row.test]
        above = sum(ours > theirs for ours, theirs in pairs if theirs is not None)
        lines.append(f"{label + ': ' if label else ''}macro-F1 above that of TF-IDF in {above} of {len(rows)} folds")
    lines.append(
        "rows: training rows, then test rows; drift: KS statistic of the distances from the training texts, test "
        "rows against validation rows; unlike if any measure of moe drift exceeds its limit"
    )
    lines += [f"failed: {name}: {reason}" for name, reason in summary.failed.items()]
    return [*lines, f"written to {summary.folder}: results.jsonl, sweep.csv, sweep.json, folds.csv, folds.png"]


def draw_folds(summary: SweepSummary, path: Path) -> None:
    """Write the picture: each metric of the folds and their drift, over the middles of their test periods.

    Folds without times are drawn by their number.

    Raises:
        Fault: if the file cannot be written.
    """
    names = _metrics(summary.folds)
    figure, panels = panel_grid(f"{summary.name}: folds over time", 1, len(names) + 1, 3.4)
    groups = group_folds(summary.folds)
    for name, panel in zip(names, panels[0], strict=False):
        for (label, rows), colour in zip(groups.items(), cycle(COLOURS), strict=False):
            _plot(panel, rows, [_model(name)(row) for row in rows], color=colour, label=label or "model")
        rows = next(iter(groups.values()))
        _plot(panel, rows, [_tfidf(name)(row) for row in rows], color=BLACK, linestyle="--", label="TF-IDF")
        majority = [row.measures.majority.value(name) for row in rows]
        _plot(panel, rows, majority, color=GREY, linestyle=":", label="majority")
        label_panel(panel, "", "middle of the test period", METRICS[name])
    _plot_drift(panels[0][-1], groups)
    for panel in panels[0]:
        if (legend := panel.get_legend()) is not None:
            legend.remove()
        _set_ticks(panel, summary.folds)
    save_figure(figure, path, shared_legend=True)


def _set_ticks(panel: Any, rows: Sequence[FoldRow]) -> None:
    if any(row.measures.periods is None for row in rows):
        panel.locator_params(axis="x", integer=True)
        return
    dates = require("matplotlib.dates", "report")
    locator = dates.AutoDateLocator(maxticks=6)
    panel.xaxis.set_major_locator(locator)
    panel.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))


def _plot_drift(panel: Any, groups: Mapping[str, Sequence[FoldRow]]) -> None:
    for (label, rows), colour in zip(groups.items(), cycle(COLOURS), strict=False):
        tests = [strongest_drift(row.measures, DISTANCE) for row in rows]
        _plot(
            panel, rows, [None if test is None else test.value for test in tests], color=colour, label=label or "model"
        )
        limits = [None if test is None else test.limit for test in tests]
        if label == next(iter(groups)):
            _plot(panel, rows, limits, color=GREY, linestyle=":", label="limit of drift")
        unlike = [
            test.value if test is not None and drift_verdict(row.measures) == UNLIKE else None
            for row, test in zip(rows, tests, strict=True)
        ]
        if any(value is not None for value in unlike):
            _plot(panel, rows, unlike, color=RED, linestyle="none", label="unlike" if colour == COLOURS[0] else None)
    panel.set_ylim(bottom=0)
    label_panel(panel, "", "middle of the test period", "drift of the test rows (KS)")


def _plot(panel: Any, rows: Sequence[FoldRow], values: Sequence[float | None], **style: Any) -> None:
    points = [(_middle(row.measures), value) for row, value in zip(rows, values, strict=True) if value is not None]
    marker = "o" if style.get("linestyle", "-") in ("-", "none") else None
    panel.plot([x for x, _ in points], [y for _, y in points], marker=marker, markersize=4, linewidth=1.4, **style)


def _middle(measures: FoldMeasures) -> datetime | int:
    """Middle of the test period, or the number of a fold without times."""
    if measures.periods is None:
        return measures.fold
    first, last = (datetime.fromisoformat(time) for time in measures.periods["test"])
    return first + (last - first) / 2
