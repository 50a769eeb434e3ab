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

SERIES = (BLUE, ORANGE, GREEN, PINK, SKY)
COLOURS = {"answered": BLUE, "retrained": RED}
LABELS = {"answered": "same weights", "retrained": "retrained"}


def ablation_view(content: Mapping[str, Any]) -> RenderableType:
    """Output of `moe ablate`: metrics by task and mean, and differences from the full mixture."""
    tasks = list(content["rows"][0]["tasks"])
    table = Table(
        title=f"{content['model']}, {content['texts']} test texts",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("variant", overflow="fold")
    for task in (*tasks, "mean"):
        table.add_column(f"{task}\nacc.\nF1", justify="right")
    corpora = list(content["rows"][0].get("perplexity", {}))
    for name in corpora:
        table.add_column(f"perplexity\n{name}", justify="right")
    for name in ("accuracy", "macro-F1"):
        table.add_column(f"{name}\n− full, points\n95 % interval", justify="right")
    for row in content["rows"]:
        table.add_row(*_cells(row, tasks, corpora), style="bold" if row["name"] == content["rows"][0]["name"] else "")
    return Group(table, *_remarks(content))


def _cells(row: Mapping[str, Any], tasks: Sequence[str], corpora: Sequence[str]) -> list[RenderableType]:
    metrics = [*(row["tasks"].get(task) for task in tasks), row["mean"]]
    cells = ["–" if values is None else f"{values['accuracy']:.3f} {values['macro_f1']:.3f}" for values in metrics]
    perplexities = row.get("perplexity", {})
    cells += [f"{perplexities[name]:.2f}" if name in perplexities else "–" for name in corpora]
    if "difference" not in row:
        return [row["name"], *cells, "", ""]
    differences = (_format_difference(row["difference"], name) for name in ("accuracy", "macro_f1"))
    return [row["name"], *cells, *differences]


def _format_difference(difference: Mapping[str, Any], name: str) -> Text:
    low, high = difference[f"{name}_interval"]
    text = f"{_points(difference[name])} [{_points(low)}, {_points(high)}]"
    return Text(text, style="red" if high < 0 else "green" if low > 0 else "dim")


def _points(share: float) -> str:
    """Format a difference in points, with its sign; −0.0 becomes 0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _remarks(content: Mapping[str, Any]) -> list[Text]:
    lines = [f"{row['name']}: {row['says']}" for row in content["rows"]]
    lines += ["grey: the interval contains 0, so there is no significant difference"]
    lines += [f"written to {content['chart']} and ablation.json in the same folder"]
    return [Text(line) for line in lines]


def variants_view(records: Sequence[Mapping[str, str]]) -> RenderableType:
    """Output of `moe ablate --list`."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("variant", "kind", "description"):
        table.add_column(name)
    for record in records:
        table.add_row(record["name"], record["kind"], record["says"])
    return table


def variant_records(variants: Sequence[Variant]) -> list[dict[str, str]]:
    """Return variants as the JSON records of `moe ablate --list`."""
    return [
        {
            "name": variant.name,
            "kind": "answered" if isinstance(variant, InferenceVariant) else "retrained",
            "says": variant.description,
        }
        for variant in variants
    ]


def draw_chart(content: Mapping[str, Any], path: Path) -> Path:
    """Write a bar chart: each variant's difference of mean accuracy from the full mixture, with its interval.

    For a language model, a second panel shows each variant's perplexity on every domain's held-out text.

    Raises:
        Fault: if the file cannot be written.
    """
    has_metrics = content["rows"][0]["mean"] is not None
    with_perplexity = [row for row in content["rows"] if "perplexity" in row]
    charts = [_plot_differences] * has_metrics + [_plot_perplexities] * bool(with_perplexity)
    height = 0.34 * max(3, len(content["rows"])) + 1.5 + 0.2 * len(with_perplexity)
    figure = new_figure(8.5 * len(charts), height)
    for panel, plot in zip(add_panels(figure, 1, len(charts))[0], charts, strict=True):
        plot(panel, content)
        panel.grid(visible=False, axis="y")
        panel.spines["left"].set_visible(False)
    save_figure(figure, path)
    return path


def _plot_differences(panel: Any, content: Mapping[str, Any]) -> None:
    rows = [row for row in content["rows"] if "difference" in row][::-1]
    for kind, colour in COLOURS.items():
        if indices := [i for i, row in enumerate(rows) if row["kind"] == kind]:
            _plot_bars(panel, indices, [rows[i]["difference"] for i in indices], colour, LABELS[kind])
    panel.axvline(0, color="black", linewidth=1)
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    panel.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    full = content["rows"][0]["mean"]["accuracy"]
    panel.set_xlabel(f"difference from the full mixture's mean accuracy ({full:.3f}) in points, with 95 % interval")
    if rows:
        panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)


def _plot_perplexities(panel: Any, content: Mapping[str, Any]) -> None:
    rows = [row for row in content["rows"] if "perplexity" in row][::-1]
    corpora = list(rows[-1]["perplexity"])
    height = 0.8 / len(corpora)
    for k, name in enumerate(corpora):
        positions = [i + 0.4 - height * (k + 0.5) for i in range(len(rows))]
        values = [row["perplexity"][name] for row in rows]
        panel.barh(positions, values, height=height, color=SERIES[k % len(SERIES)], label=name)
    panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    panel.set_xlabel("perplexity of each domain's held-out text; lower is better")
    panel.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(corpora), frameon=False, fontsize=9)


def _plot_bars(
    panel: Any, rows: Sequence[int], differences: Sequence[Mapping[str, Any]], colour: str, label: str
) -> None:
    values = [100 * row["accuracy"] for row in differences]
    below = [max(0.0, 100 * (row["accuracy"] - row["accuracy_interval"][0])) for row in differences]
    above = [max(0.0, 100 * (row["accuracy_interval"][1] - row["accuracy"])) for row in differences]
    panel.barh(rows, values, xerr=[below, above], color=colour, height=0.6, label=label, capsize=3, ecolor="0.25")
