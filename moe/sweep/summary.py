"""Summary of a sweep: metrics of each trial over seeds, the best trial by validation, and the table."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.sweep.grid import SweepPlan, Trial, format_value
from moe.sweep.results import MeanSd, Split, SweepSummary, TrialFigures, TrialResult, TrialSummary
from moe.sweep.trials import selection_score

METRIC_TITLES = {"accuracy": "accuracy", "macro_f1": "macro-F1", "mse": "MSE"}
COLUMNS: tuple[tuple[Split, str], ...] = (("validation", "macro_f1"), *(("test", name) for name in METRIC_TITLES))
SPLIT_TITLES = {"validation": "valid.", "test": "test"}


def mean_and_sd(values: Sequence[float]) -> MeanSd:
    """Return mean and sample standard deviation; None as the deviation of a single value."""
    return MeanSd(mean=float(np.mean(values)), sd=float(np.std(values, ddof=1)) if len(values) > 1 else None)


def summarise(plan: SweepPlan, trials: Sequence[Trial], results: Sequence[TrialResult]) -> SweepSummary:
    """Summarise each trial over its seeds; without `failed`, `folder` and `charts`."""
    rows = []
    for trial in trials:
        if own := [result for result in results if result.point == trial.key]:
            rows.append(_trial_row(trial, own))
    memory = sorted({result.memory_of for result in results})
    return SweepSummary(
        name=plan.name,
        until=plan.settings.until,
        varying=plan.varying_keys(),
        memory_of=", ".join(memory),
        best=max(rows, key=lambda row: row.quality).point if rows else None,
        points=rows,
    )


def _trial_row(trial: Trial, results: Sequence[TrialResult]) -> TrialSummary:
    peaks = [result.peak_mib for result in results if result.peak_mib is not None]
    return TrialSummary(
        point=trial.key,
        settings=trial.values,
        seeds=[result.seed for result in results],
        parameters=results[0].parameters,
        quality=float(np.mean([selection_score(result.validation) for result in results])),
        seconds=mean_and_sd([result.seconds for result in results]),
        peak_mib=mean_and_sd(peaks) if peaks else None,
        validation=_over_seeds([result.validation for result in results]),
        test=_over_seeds([result.test for result in results]),
    )


def _over_seeds(figures: Sequence[TrialFigures]) -> dict[str, MeanSd]:
    """Mean and deviation of the metrics that every seed has."""
    values = [dict(of_seed.known()) for of_seed in figures]
    names = [name for name in values[0] if all(name in of_seed for of_seed in values)]
    return {name: mean_and_sd([of_seed[name] for of_seed in values]) for name in names}


def flatten_row(row: TrialSummary) -> dict[str, object]:
    """Return a trial as a row of `sweep.csv`: its settings, then metrics as `test.macro_f1.mean`."""
    rest = row.model_dump(exclude={"settings", "seeds", "point"})
    settings = {
        key: value if isinstance(value, int | float | str) else format_value(value)
        for key, value in row.settings.items()
    }
    return {"point": row.point, **settings, "seeds": len(row.seeds), **rest}


def sweep_view(summary: SweepSummary) -> RenderableType:
    """Output of `moe sweep`: a row per trial with mean ± sd over seeds, the best by validation marked."""
    rows = summary.points
    columns = [(split, name) for split, name in COLUMNS if any(name in row.split(split) for row in rows)]
    title = f"sweep {summary.name}, until {summary.until}"
    table = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("trial", overflow="fold", min_width=10)
    for split, name in columns:
        table.add_column(f"{SPLIT_TITLES[split]}\n{METRIC_TITLES[name]}", justify="right", min_width=8)
    for name in ("param.", "sec.", "MiB"):
        table.add_column(name, justify="right", min_width=len(name))
    for row in rows:
        table.add_row(*_cells(row, summary, columns), style="bold" if row.point == summary.best else "")
    return Group(table, *_remarks(summary))


def _cells(row: TrialSummary, summary: SweepSummary, columns: Sequence[tuple[Split, str]]) -> list[str]:
    values = {key: row.settings[key] for key in summary.varying}
    trial = ("★ " if row.point == summary.best else "  ") + format_settings(values)
    metrics = [_format_mean(row.split(split).get(name), 4 if name == "mse" else 3) for split, name in columns]
    parameters = f"{row.parameters / 1e6:.2f} M"
    return [trial, *metrics, parameters, _format_mean(row.seconds, 0), _format_mean(row.peak_mib, 0)]


def format_settings(values: Mapping[str, object]) -> str:
    """Format settings in one line, by the last part of their names if these differ; empty mappings are omitted."""
    short = {key.rpartition(".")[2]: value for key, value in values.items() if value != {}}
    return format_value(short if len(short) == sum(value != {} for value in values.values()) else values)


def _format_mean(value: MeanSd | None, digits: int) -> str:
    if value is None:
        return "–"
    return f"{value.mean:.{digits}f}" + ("" if value.sd is None else f" ±{value.sd:.{digits}f}")


def _remarks(summary: SweepSummary) -> list[Text]:
    seeds = sorted({seed for row in summary.points for seed in row.seeds})
    lines = [
        f"★ best by validation; mean ± sd over seeds {', '.join(map(str, seeds))}"
        if len(seeds) > 1
        else f"★ best by validation; one seed, {seeds[0]}"
    ]
    lines += [f"MiB: peak memory during training, of the {summary.memory_of}"]
    lines += [f"failed: {name}: {reason}" for name, reason in summary.failed.items()]
    lines += [f"written to {summary.folder}: results.jsonl, sweep.csv, sweep.json, {len(summary.charts)} PNG"]
    return [Text(line) for line in lines]
