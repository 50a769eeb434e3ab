"""An ablation for people: the table, and the bar chart with intervals.

The figures are `moe.ablation.run`'s.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import os_errors_as_faults
from moe.ablation.variants import Variant
from moe.console import Table
from moe.extras import require
from moe.plots.style import BLUE, GREEN, ORANGE, PINK, RED, SKY

SERIES = (BLUE, ORANGE, GREEN, PINK, SKY)
COLOURS = {"answered": BLUE, "retrained": RED}
LABELS = {"answered": "the same weights, asked in another way", "retrained": "trained again"}


def ablation_view(content: Mapping[str, Any]) -> RenderableType:
    """The table of `moe ablate`: figures by task and mean, and their differences from the full mixture."""
    tasks = list(content["rows"][0]["tasks"])
    table = Table(
        title=f"{content['model']}, {content['texts']} test texts",
        title_justify="left",
        header_style="bold",
        box=SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    table.add_column("row", overflow="fold")
    for task in (*tasks, "mean"):
        table.add_column(f"{task}\nacc.\nF1", justify="right")
    texts = list(content["rows"][0].get("perplexity", {}))
    for name in texts:
        table.add_column(f"perplexity\n{name}", justify="right")
    for name in ("accuracy", "macro-F1"):
        table.add_column(f"{name}\nagainst full, points\n95 % interval", justify="right")
    for row in content["rows"]:
        table.add_row(*_cells(row, tasks, texts), style="bold" if row["name"] == content["rows"][0]["name"] else "")
    return Group(table, *_remarks(content))


def _cells(row: Mapping[str, Any], tasks: Sequence[str], texts: Sequence[str]) -> list[RenderableType]:
    figures = [*(row["tasks"].get(task) for task in tasks), row["mean"]]
    shown = ["–" if one is None else f"{one['accuracy']:.3f} {one['macro_f1']:.3f}" for one in figures]
    foreseen = row.get("perplexity", {})
    shown += [f"{foreseen[name]:.2f}" if name in foreseen else "–" for name in texts]
    if "difference" not in row:
        return [row["name"], *shown, "", ""]
    return [row["name"], *shown, *(_difference(row["difference"], name) for name in ("accuracy", "macro_f1"))]


def _difference(one: Mapping[str, Any], name: str) -> Text:
    low, high = one[f"{name}_interval"]
    told = f"{_points(one[name])} [{_points(low)}, {_points(high)}]"
    return Text(told, style="red" if high < 0 else "green" if low > 0 else "dim")


def _points(share: float) -> str:
    """A difference in points, with its sign; −0.0 is 0.0."""
    return f"{round(100 * share, 1) + 0.0:+.1f}"


def _remarks(content: Mapping[str, Any]) -> list[Text]:
    lines = [f"{row['name']}: {row['says']}" for row in content["rows"]]
    lines += ["grey: the interval holds 0, so these rows show no difference"]
    lines += [f"written to {content['chart']} and ablation.json beside it"]
    return [Text(line) for line in lines]


def variants_view(rows: Sequence[Mapping[str, str]]) -> RenderableType:
    """What `moe ablate --list` prints."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("row", "kind", "shows"):
        table.add_column(name)
    for row in rows:
        table.add_row(row["name"], row["kind"], row["says"])
    return table


def variant_records(rows: Sequence[Variant]) -> list[dict[str, str]]:
    """Rows as they are listed."""
    kinds = {"Answered": "answered", "Retrained": "retrained"}
    return [{"name": row.name, "kind": kinds[type(row).__name__], "says": row.says} for row in rows]


def draw_chart(content: Mapping[str, Any], target: Path) -> Path:
    """A bar a row: the difference of mean accuracy from the full mixture, in points, with its interval.

    Of a language model also, beside it, each row's perplexity on every domain's held-out text.

    Raises:
        Fault: when it cannot be written.
    """
    figure_type = require("matplotlib.figure", "report").Figure  # without pyplot, no window opens

    answered = content["rows"][0]["mean"] is not None
    foreseen = [row for row in content["rows"] if "perplexity" in row]
    panels = [_differences] * answered + [_perplexities] * bool(foreseen)
    height = 0.34 * max(3, len(content["rows"])) + 1.5 + 0.2 * len(foreseen)
    figure = figure_type(figsize=(8.5 * len(panels), height), layout="constrained")
    for place, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        panel(place, content)
        place.set_axisbelow(True)
        place.grid(axis="x", color="0.92")
        place.spines[["top", "right", "left"]].set_visible(False)
    with os_errors_as_faults(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(target, dpi=130)
    return target


def _differences(place: Any, content: Mapping[str, Any]) -> None:
    rows = [row for row in content["rows"] if "difference" in row][::-1]
    for kind, colour in COLOURS.items():
        if own := [i for i, row in enumerate(rows) if row["kind"] == kind]:
            _bars(place, own, [rows[i]["difference"] for i in own], colour, LABELS[kind])
    place.axvline(0, color="black", linewidth=1)
    place.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    place.set_ylim(-0.6, max(len(rows), 1) - 0.4)
    full = content["rows"][0]["mean"]["accuracy"]
    place.set_xlabel(f"mean accuracy against the full mixture's {full:.3f}, points; bars 95 % of redrawn test rows")
    if rows:
        place.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False, fontsize=9)


def _perplexities(place: Any, content: Mapping[str, Any]) -> None:
    rows = [row for row in content["rows"] if "perplexity" in row][::-1]
    texts = list(rows[-1]["perplexity"])
    height = 0.8 / len(texts)
    for k, name in enumerate(texts):
        places = [i + 0.4 - height * (k + 0.5) for i in range(len(rows))]
        values = [row["perplexity"][name] for row in rows]
        place.barh(places, values, height=height, color=SERIES[k % len(SERIES)], label=name)
    place.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=9)
    place.set_xlabel("perplexity of each domain's held-out text; lower is better")
    place.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(texts), frameon=False, fontsize=9)


def _bars(place: Any, rows: Sequence[int], found: Sequence[Mapping[str, Any]], colour: str, label: str) -> None:
    middle = [100 * one["accuracy"] for one in found]
    below = [max(0.0, 100 * (one["accuracy"] - one["accuracy_interval"][0])) for one in found]
    above = [max(0.0, 100 * (one["accuracy_interval"][1] - one["accuracy"])) for one in found]
    place.barh(rows, middle, xerr=[below, above], color=colour, height=0.6, label=label, capsize=3, ecolor="0.25")
