"""Summary of a sweep: metrics of each trial over seeds, the best trial by validation, and the table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.sweep.grid import SweepPlan, Trial, format_value
from moe.sweep.trials import LABEL_METRICS, SCORE_METRICS, TrialResult, selection_score

COSTS = ("seconds", "peak_mib")
METRIC_TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "mse": "MSE"}
COLUMNS = (("validation", "macro_f1"), *(("test", name) for name in METRIC_TITLES))
SPLIT_TITLES = {"validation": "valid.", "test": "test"}
MeanSd = dict[str, float | None]


def mean_and_sd(values: Sequence[float]) -> MeanSd:
    """Return mean and sample standard deviation; None as the deviation of a single value."""
    return {"mean": float(np.mean(values)), "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None}


def summarise(plan: SweepPlan, trials: Sequence[Trial], results: Sequence[TrialResult]) -> dict[str, Any]:
    """Summarise each trial over its seeds.

    Returns:
        `name`, `until`, `varying` (the settings that differ), `best` (key of the trial with the best mean validation
        macro-F1, or the lowest MSE if nothing has labels), and `points`, one per trial with results: `point`,
        `settings`, `seeds`, `parameters`, `quality` (score), `seconds`, `peak_mib`, and under `validation` and `test`
        mean and sd of every metric.
    """
    rows = []
    for trial in trials:
        if own := [result for result in results if result["point"] == trial.key]:
            rows.append(_trial_row(trial, own))
    memory = sorted({str(result["memory_of"]) for result in results})
    return {
        "name": plan.name,
        "until": plan.settings.until,
        "varying": plan.varying_keys(),
        "memory_of": ", ".join(memory),
        "best": max(rows, key=lambda row: row["quality"])["point"] if rows else None,
        "points": rows,
    }


def _trial_row(trial: Trial, results: Sequence[TrialResult]) -> dict[str, Any]:
    row: dict[str, Any] = {
        "point": trial.key,
        "settings": trial.values,
        "seeds": [result["seed"] for result in results],
        "parameters": results[0]["parameters"],
        "quality": float(np.mean([selection_score(result["validation"]) for result in results])),
    }
    for name in COSTS:
        known = [result[name] for result in results if result[name] is not None]
        row[name] = mean_and_sd(known) if known else None
    for split in ("validation", "test"):
        names = [name for name in (*LABEL_METRICS, *SCORE_METRICS) if all(name in result[split] for result in results)]
        row[split] = {name: mean_and_sd([result[split][name] for result in results]) for name in names}
    return row


def flatten_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a trial as a row of `sweep.csv`: its settings, then metrics as `test.macro_f1.mean`."""
    rest = {key: value for key, value in row.items() if key not in ("settings", "seeds", "point")}
    settings = {
        key: value if isinstance(value, int | float | str) else format_value(value)
        for key, value in row["settings"].items()
    }
    return {"point": row["point"], **settings, "seeds": len(row["seeds"]), **rest}


def sweep_view(content: Mapping[str, Any]) -> RenderableType:
    """Output of `moe sweep`: a row per trial with mean ± sd over seeds, the best by validation marked."""
    rows = content["points"]
    columns = [(split, name) for split, name in COLUMNS if any(name in row[split] for row in rows)]
    title = f"sweep {content['name']}, until {content['until']}"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trial", overflow="fold", min_width=10)
    for split, name in columns:
        table.add_column(f"{SPLIT_TITLES[split]}\n{METRIC_TITLES[name]}", justify="right", min_width=8)
    for name in ("param.", "sec.", "MiB"):
        table.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        table.add_row(*_cells(row, content, columns), style="bold" if row["point"] == content["best"] else "")
    return Group(table, *_remarks(content))


def _cells(row: Mapping[str, Any], content: Mapping[str, Any], columns: Sequence[tuple[str, str]]) -> list[str]:
    values = {key: row["settings"][key] for key in content["varying"]}
    trial = ("★ " if row["point"] == content["best"] else "  ") + format_settings(values)
    metrics = [_format_mean(row[split].get(name), 4 if name == "mse" else 3) for split, name in columns]
    parameters = f"{row['parameters'] / 1e6:.2f} M"
    return [trial, *metrics, parameters, _format_mean(row["seconds"], 0), _format_mean(row["peak_mib"], 0)]


def format_settings(values: Mapping[str, Any]) -> str:
    """Format settings in one line, by the last part of their names if these differ; empty mappings are omitted."""
    short = {key.rpartition(".")[2]: value for key, value in values.items() if value != {}}
    return format_value(short if len(short) == sum(value != {} for value in values.values()) else values)


def _format_mean(value: MeanSd | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value['mean']:.{digits}f}" + ("" if value["sd"] is None else f" ±{value['sd']:.{digits}f}")


def _remarks(content: Mapping[str, Any]) -> list[Text]:
    seeds = sorted({seed for row in content["points"] for seed in row["seeds"]})
    lines = [
        f"★ best by validation; mean ± sd over seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else f"★ best by validation; one seed, {seeds[0]}"
    ]
    lines += [f"MiB: peak memory during training, of the {content['memory_of']}"]
    lines += [f"failed: {name}: {reason}" for name, reason in content["failed"].items()]
    lines += [f"written to {content['folder']}: results.jsonl, sweep.csv, sweep.json, {len(content['charts'])} PNG"]
    return [Text(line) for line in lines]
