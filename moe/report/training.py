"""The figures of a run's training, or of two beside each other: by stage, by loss, by weight, and what is missing.

The folders are read by `moe.runs.reader`, pictures drawn by `moe.plots.training`, the page is written by
`moe.report.html`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moe.plots.curves import LEVELS, distinct_losses, epoch_means, weight_columns
from moe.runs.best import RESULT
from moe.runs.reader import SUMMARY, RunLogs
from moe.runs.training_log import Trajectory

ModelMetrics = dict[str, dict[str, dict[str, float]]]


def build_training_report(runs: Sequence[RunLogs]) -> dict[str, Any]:
    """All figures of one run, or of two beside each other, as JSON; what is missing is null, or told in `list_omissions`."""
    run = runs[0]
    return {
        "run": str(run.folder),
        "against": str(runs[1].folder) if len(runs) > 1 else None,
        "seed": {one.label: one.seed for one in runs},
        "best": run.result.get("best"),
        "verdict": run.result.get("verdict"),
        "stages": [row for name in stage_names(runs) for row in stage_rows(runs, name)],
        "losses": [row for name in stage_names(runs) for row in loss_rows(runs, name)],
        "weights": {name: _weights(found) for name, found in run.stages.items()},
        "evaluations": {name: found.evaluations for name, found in run.stages.items()},
        "validation": {one.label: validation_metrics(one) for one in runs},
        "test": {one.label: one.summary.get("figures", {}) for one in runs},
        "routing": run.summary.get("routing"),
        "measured": [row for one in runs for row in evaluation_rows(one)],
        "left_out": list_omissions(runs),
    }


def stage_names(runs: Sequence[RunLogs]) -> list[str]:
    """The stages of all runs, each once."""
    return list(dict.fromkeys(name for one in runs for name in one.stages))


def stage_rows(runs: Sequence[RunLogs], name: str) -> list[dict[str, Any]]:
    """A stage's figures, a row a run: steps, epochs, the kept evaluation, seconds, MiB.

    `seconds` are the steps' alone, `wall_seconds` those of the loop with evaluations and checkpoints,
    `seconds_per_step` is the median.
    """
    rows = []
    for run in runs:
        if found := run.stages.get(name):
            seconds, kept = _finite(found.values("seconds")), found.best_evaluation or {}
            rows.append(
                {
                    "run": run.label,
                    "stage": name,
                    "finished": name in run.finished,
                    "steps": int(found.rows[-1]["step"]) if found.rows else 0,
                    "epochs": found.rows[-1].get("epoch") if found.rows else None,
                    "kept_step": kept.get("step"),
                    "macro_f1": kept.get("macro_f1"),
                    "accuracy": kept.get("accuracy"),
                    "perplexity": kept.get("perplexity"),
                    "seconds": float(seconds.sum()) if len(seconds) else None,
                    "wall_seconds": found.wall_seconds,
                    "seconds_per_step": float(np.median(seconds)) if len(seconds) else None,
                    "peak_mib": max(_finite(found.values("memory_mib")).tolist(), default=None),
                    "device": next((row["device"] for row in reversed(found.rows) if "device" in row), None),
                }
            )
    return rows


def loss_rows(runs: Sequence[RunLogs], name: str) -> list[dict[str, Any]]:
    """Each loss of a stage, a row a run: its mean over the first and the last tenth of the steps that have it."""
    found = {run.label: run.stages[name] for run in runs if name in run.stages}
    rows = []
    for loss in distinct_losses(found):
        for label, one in found.items():
            values = _finite(one.values(loss))
            if len(values):
                tenth = max(1, len(values) // 10)
                ends = {"first": float(values[:tenth].mean()), "last": float(values[-tenth:].mean())}
                rows.append({"run": label, "stage": name, "loss": loss, **ends})
    return rows


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _weights(found: Trajectory) -> dict[str, list[float]]:
    """The mean of every weight over each epoch, where there is something to weigh."""
    names = [n for level in LEVELS for some in weight_columns(found, level).values() for n in some]
    return {name: epoch_means(found, name)[1].tolist() for name in names}


def validation_metrics(run: RunLogs) -> ModelMetrics:
    """Accuracy and macro-F1 of each mixture by task, from `result.json`."""
    return {model: metrics_by_task(metrics) for model, metrics in run.result.get("validation", {}).items()}


def metrics_by_task(metrics: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """`TASK_accuracy` and `TASK_macro_f1` as figures by task, the mean last."""
    figures: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        for name in ("accuracy", "macro_f1"):
            if key == name or key.endswith(f"_{name}"):
                figures.setdefault(key.removesuffix(name).removesuffix("_") or "mean", {})[name] = value
                break
    mean = figures.pop("mean", None)
    return figures | ({"mean": mean} if mean and len(figures) > 1 else {})


def evaluation_rows(run: RunLogs) -> list[dict[str, Any]]:
    """What `moe evaluate` and `moe run` measured last of each model."""
    return [
        {
            "run": run.label,
            "model": model,
            "rows": report.get("rows"),
            "routing_mode": report.get("routing_mode"),
            "accuracy": report.get("mean", {}).get("accuracy"),
            "macro_f1": report.get("mean", {}).get("macro_f1"),
            "right_domain": report.get("routing", {}).get("accuracy"),
        }
        for model, report in run.evaluations.items()
    ]


def list_omissions(runs: Sequence[RunLogs]) -> list[str]:
    """A sentence for each thing that a report would hold, had it been there."""
    said = []
    for run in runs:
        if not run.stages:
            said.append(f"{run.label}: no stage has a log, so there is no picture of training.")
        if not run.result:
            said.append(f"{run.label}: no {RESULT}; it comes with the joint stage.")
        if not run.summary:
            said.append(f"{run.label}: no {SUMMARY}; moe run writes it at its end.")
        said += [f"{run.label}: {sentence} ({', '.join(names)})." for sentence, names in _lacks(run).items()]
    for name in stage_names(runs) if len(runs) > 1 else []:
        here = [run.label for run in runs if name in run.stages]
        said += [f"{name}: only {here[0]} has it."] if len(here) == 1 else []
    return said


def _lacks(run: RunLogs) -> dict[str, list[str]]:
    """What stages lack, by sentence the stages' names."""
    found: dict[str, list[str]] = {}
    for name, one in run.stages.items():
        lacks = {
            "not finished; shown as far as the log goes": name not in run.finished,
            "no evaluation in the log, so no learning curve": not one.evaluations,
            "no seconds and memory in the log": not np.isfinite(one.values("seconds")).any(),
            "one loss at a time, so no weights to draw": not any(weight_columns(one, level) for level in LEVELS),
        }
        for sentence in (told for told, lacking in lacks.items() if lacking):
            found.setdefault(sentence, []).append(name)
    return found
