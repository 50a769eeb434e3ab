"""What a sweep found: each point's figures as mean and spread over seeds, the best by validation, and the table.

Where the figures come from is `moe.sweep.trials`'; the pictures of them are `moe.sweep.charts`'.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.sweep.grid import SweepPlan, Trial, format_value
from moe.sweep.trials import LABEL_FIGURES, SCORE_FIGURES, TrialResult, selection_score

COSTS = ("seconds", "peak_mib")
NAMES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "mse": "MSE"}
SHOWN = (("validation", "macro_f1"), *(("test", name) for name in NAMES))
SHORT = {"validation": "valid.", "test": "test"}
MeanSd = dict[str, float | None]


def mean_and_sd(values: Sequence[float]) -> MeanSd:
    """Mean, and sample standard deviation, None for one value."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def summarise(plan: SweepPlan, points: Sequence[Trial], results: Sequence[TrialResult]) -> dict[str, Any]:
    """Each point over its seeds.

    Returns:
        `name`, `until`, `varying` (the settings that differ), `best` (the key of the point with the best mean
        validation macro-F1, or the least MSE where nothing has labels), and `points`: `point`, `settings`, `seeds`,
        `parameters`, `selection_score`, `seconds`, `peak_mib`, and under `validation` and `test` the mean and sd of every
        figure. Points without a result are left out.
    """
    rows = []
    for point in points:
        if own := [one for one in results if one["point"] == point.key]:
            rows.append(_row(point, own))
    best = max(rows, key=lambda row: row["quality"])["point"] if rows else None
    memory = sorted({str(one["memory_of"]) for one in results})
    head = {"name": plan.name, "until": plan.settings.until, "varying": plan.varying(), "memory_of": ", ".join(memory)}
    return head | {"best": best, "points": rows}


def _row(point: Trial, own: Sequence[TrialResult]) -> dict[str, Any]:
    row: dict[str, Any] = {"point": point.key, "settings": point.values, "seeds": [one["seed"] for one in own]}
    row |= {"parameters": own[0]["parameters"], "quality": float(np.mean([selection_score(one["validation"]) for one in own]))}
    for name in COSTS:
        known = [one[name] for one in own if one[name] is not None]
        row[name] = mean_and_sd(known) if known else None
    for split in ("validation", "test"):
        known_names = [name for name in (*LABEL_FIGURES, *SCORE_FIGURES) if all(name in one[split] for one in own)]
        row[split] = {name: mean_and_sd([one[split][name] for one in own]) for name in known_names}
    return row


def flatten_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A point as a line of `sweep.csv`: settings, then figures as `test.macro_f1.mean`."""
    rest = {key: value for key, value in row.items() if key not in ("settings", "seeds", "point")}
    settings = {key: value if isinstance(value, int | float | str) else format_value(value) for key, value in _settings(row)}
    return {"point": row["point"], **settings, "seeds": len(row["seeds"]), **rest}


def _settings(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return list(row["settings"].items())


def sweep_view(content: Mapping[str, Any]) -> RenderableType:
    """The table of `moe sweep`: a line a point, mean ± sd over seeds, the best by validation marked."""
    rows = content["points"]
    figures = [(split, name) for split, name in SHOWN if any(name in row[split] for row in rows)]
    title = f"sweep {content['name']}, until {content['until']}"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("point", overflow="fold", min_width=10)
    for split, name in figures:
        table.add_column(f"{SHORT[split]}\n{NAMES[name]}", justify="right", min_width=8)
    for name in ("weights", "sec.", "MiB"):
        table.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        table.add_row(*_cells(row, content, figures), style="bold" if row["point"] == content["best"] else "")
    return Group(table, *_remarks(content))


def _cells(row: Mapping[str, Any], content: Mapping[str, Any], figures: Sequence[tuple[str, str]]) -> list[str]:
    values = {one: row["settings"][one] for one in content["varying"]}
    point = ("★ " if row["point"] == content["best"] else "  ") + format_settings(values)
    shown = [_shown(row[split].get(name), 4 if name == "mse" else 3) for split, name in figures]
    weights = f"{row['parameters'] / 1e6:.2f} M"
    return [point, *shown, weights, _shown(row["seconds"], 0), _shown(row["peak_mib"], 0)]


def format_settings(values: Mapping[str, Any]) -> str:
    """Settings in a line, by the last part of their names; empty mappings left out."""
    parts = {key.rpartition(".")[2]: value for key, value in values.items() if value != {}}
    return format_value(parts if len(parts) == sum(value != {} for value in values.values()) else values)


def _shown(one: MeanSd | None, digits: int) -> str:
    if one is None:
        return "–"
    return f"{one['mean']:.{digits}f}" + ("" if one["sd"] is None else f" ±{one['sd']:.{digits}f}")


def _remarks(content: Mapping[str, Any]) -> list[Text]:
    seeds = sorted({seed for row in content["points"] for seed in row["seeds"]})
    lines = [
        f"★ best by validation; mean ± sd over seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else f"★ best by validation; one seed, {seeds[0]}"
    ]
    lines += [f"MiB: the most memory in use while training, of the {content['memory_of']}"]
    lines += [f"failed: {name}: {reason}" for name, reason in content["failed"].items()]
    lines += [f"written to {content['folder']}: results.jsonl, sweep.csv, sweep.json, {len(content['charts'])} PNG"]
    return [Text(line) for line in lines]
