"""Table and bar chart of an ablation."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from moe.ablation.variants import InferenceVariant, Variant
from moe.console import Table
from moe.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY, add_panels, new_figure, save_figure
from moe.results.ablation import AblationReport, VariantDifference, VariantRecord, VariantRow
from moe.results.base import Bounds

SERIES = (BLUE, ORANGE, GREEN, PINK, SKY)
COLOURS = {"answered": BLUE, "retrained": RED}
LABELS = {"answered": "same weights", "retrained": "retrained"}


def ablation_view(report: AblationReport) -> RenderableType:
    """Output of `moe ablate`: metrics by task and mean, and differences from the full mixture."""
    full = report.rows[0]
    tasks, corpora = list(full.tasks), list(full.perplexity)
    table = Table(
        title=f"{report.model}, {report.texts} test texts",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("variant", overflow="fold")
    for task in (*tasks, "mean"):
        table.add_column(f"{task}\nacc.\nF1", justify="right")
    for name in corpora:
        table.add_column(f"perplexity\n{name}", justify="right")
    for name in ("accuracy", "macro-F1"):
        table.add_column(f"{name}\n− full, points\n95 % interval", justify="right")
    for row in report.rows:
        table.add_row(*_cells(row, tasks, corpora), style="bold" if row.name == full.name else "")
    return Group(table, *_remarks(report))


def _cells(row: VariantRow, tasks: Sequence[str], corpora: Sequence[str]) -> list[RenderableType]:
    metrics = [*(row.tasks.get(task) for task in tasks), row.mean]
    cells = ["–" if values is None else f"{values.accuracy:.3f} {values.macro_f1:.3f}" for values in metrics]
    cells += [f"{row.perplexity[name]:.2f}" if name in row.perplexity else "–" for name in corpora]
    if (difference := row.difference) is None:
        return [row.name, *cells, "", ""]
    accuracy = _format_difference(difference.accuracy, difference.accuracy_interval)
    return [row.name, *cells, accuracy, _format_difference(difference.macro_f1, difference.macro_f1_interval)]


def _format_difference(difference: float, interval: Bounds) -> Text:
    low, high = interval
    text = f"{_points(difference)} [{_points(low)}, {_points(high)}]"
    return Text(text, style="red" if high < 0 else "green" if low > 0 else "dim")


def _points(share: float) -> str:
    """Format a difference in points, with its sign; −0.0 becomes 0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _remarks(report: AblationReport) -> list[Text]:
    lines = [f"{row.name}: {row.description}" for row in report.rows]
    lines += ["grey: the interval contains 0, so there is no significant difference"]
    lines += [f"written to {report.chart} and ablation.json in the same folder"]
    return [Text(line) for line in lines]


def variants_view(records: Sequence[VariantRecord]) -> RenderableType:
    """Output of `moe ablate --list`."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("variant", "kind", "description"):
        table.add_column(name)
    for record in records:
        table.add_row(record.name, record.kind, record.description)
    return table


def variant_records(variants: Sequence[Variant]) -> list[VariantRecord]:
    """Return variants as the JSON records of `moe ablate --list`."""
    return [
        VariantRecord(
            name=variant.name,
            kind="answered" if isinstance(variant, InferenceVariant) else "retrained",
            description=variant.description,
        )
        for variant in variants
    ]


def draw_chart(rows: Sequence[VariantRow], path: Path) -> Path:
    """Write a bar chart: each variant's difference of mean accuracy from the full mixture, with its interval.

    For a language model, a second panel shows each variant's perplexity on every domain's held-out text.

    Raises:
        Fault: if the file cannot be written.
    """
    has_metrics = rows[0].mean is not None
    with_perplexity = [row for row in rows if row.perplexity]
    charts = [_plot_differences] * has_metrics + [_plot_perplexities] * bool(with_perplexity)
    height = 0.34 * max(3, len(rows)) + 1.5 + 0.2 * len(with_perplexity)
    figure = new_figure(8.5 * len(charts), height)
    for panel, plot in zip(add_panels(figure, 1, len(charts))[0], charts, strict=True):
        plot(panel, rows)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
    save_figure(figure, path)
    return path


def _plot_differences(panel: Any, rows: Sequence[VariantRow]) -> None:
    assert rows[0].mean is not None
    full = rows[0].mean.accuracy
    differences = [(row, row.difference) for row in rows[::-1] if row.difference is not None]
    for kind, colour in COLOURS.items():
        if bars := {i: its for i, (row, its) in enumerate(differences) if row.kind == kind}:
            _plot_bars(panel, bars, colour, LABELS[kind])
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(differences)), [row.name for row, _ in differences], fontsize=9)
    panel.set_ylim(-0.6, max(len(differences), 1) - 0.4)
    panel.set_xlabel(f"difference from the full mixture's mean accuracy ({full:.3f}) in points, with 95 % interval")
    if differences:
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)


def _plot_perplexities(panel: Any, rows: Sequence[VariantRow]) -> None:
    rows = [row for row in rows if row.perplexity][::-1]
    corpora = list(rows[-1].perplexity)
    height = 0.8 / len(corpora)
    for k, name in enumerate(corpora):
        positions = [i + 0.4 - height * (k + 0.5) for i in range(len(rows))]
        values = [row.perplexity[name] for row in rows]
        panel.barh(positions, values, height=height, color=SERIES[k % len(SERIES)], label=name)
    panel.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=9)
    panel.set_xlabel("perplexity of each domain's held-out text; lower is better")
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(corpora), frameon=False, fontsize=9)


def _plot_bars(panel: Any, bars: Mapping[int, VariantDifference], colour: str, label: str) -> None:
    """Plot differences of accuracy with their intervals, by position."""
    values = [100 * its.accuracy for its in bars.values()]
    below = [max(0.0, 100 * (its.accuracy - its.accuracy_interval[0])) for its in bars.values()]
    above = [max(0.0, 100 * (its.accuracy_interval[1] - its.accuracy)) for its in bars.values()]
    panel.barh(list(bars), values, xerr=[below, above], color=colour, height=0.6, label=label, capsize=3, ecolor="0.25")
