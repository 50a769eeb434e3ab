"""Training metrics of one run or two: by stage, by loss, by loss weight, and what is missing."""

from collections.abc import Mapping, Sequence

import numpy as np

from moe.plots.curves import LEVELS, distinct_losses, epoch_means, weight_columns
from moe.report.conclusions import draw_conclusions
from moe.results.metrics import TaskFigures
from moe.results.run import BestMixture, FiguresByModel, RunSummary
from moe.results.training import EvaluationRow, LossRow, StageRow, TrainingReport
from moe.runs.layout import RESULT, SUMMARY
from moe.runs.reader import RunLogs
from moe.runs.training_log import Trajectory

MEAN = "mean"
"""Stands for the mean over tasks among metrics by task."""


def build_training_report(runs: Sequence[RunLogs]) -> TrainingReport:
    """Build the training part of `report.json` for one run, or for two; missing values are None or in `left_out`."""
    first = runs[0]
    result, summaries = first.result or BestMixture(), [run.summary or RunSummary() for run in runs]
    return TrainingReport(
        run=str(first.folder),
        against=str(runs[1].folder) if len(runs) > 1 else None,
        seed={run.label: run.seed for run in runs},
        best=result.best,
        verdict=result.verdict,
        conclusions=draw_conclusions(summaries[0], result.best),
        stages=[row for name in stage_names(runs) for row in stage_rows(runs, name)],
        losses=[row for name in stage_names(runs) for row in loss_rows(runs, name)],
        weights={name: _mean_weights(log) for name, log in first.stages.items()},
        evaluations={name: log.evaluations for name, log in first.stages.items()},
        validation={run.label: validation_metrics(run) for run in runs},
        test={run.label: summary.figures for run, summary in zip(runs, summaries, strict=True)},
        test_means={run.label: summary.means for run, summary in zip(runs, summaries, strict=True)},
        differences=summaries[0].differences,
        score_differences=summaries[0].score_differences,
        levels=first.levels,
        routing=summaries[0].routing,
        measured=[row for run in runs for row in evaluation_rows(run)],
        left_out=list_omissions(runs),
    )


def stage_names(runs: Sequence[RunLogs]) -> list[str]:
    """Return the names of the stages of all runs, without duplicates."""
    return list(dict.fromkeys(name for run in runs for name in run.stages))


def stage_rows(runs: Sequence[RunLogs], name: str) -> list[StageRow]:
    """Return one row per run for a stage."""
    rows = []
    for run in runs:
        if log := run.stages.get(name):
            seconds, best = _finite(log.values("seconds")), log.best_evaluation or {}
            rows.append(
                StageRow(
                    run=run.label,
                    stage=name,
                    finished=name in run.finished,
                    steps=int(log.rows[-1]["step"]) if log.rows else 0,
                    epochs=log.rows[-1].get("epoch") if log.rows else None,
                    kept_step=best.get("step"),
                    macro_f1=best.get("macro_f1"),
                    accuracy=best.get("accuracy"),
                    perplexity=best.get("perplexity"),
                    **{name: best[name] for name in ("ccc", "mean_of_tasks") if name in best},
                    seconds=float(seconds.sum()) if len(seconds) else None,
                    wall_seconds=log.wall_seconds,
                    seconds_per_step=float(np.median(seconds)) if len(seconds) else None,
                    peak_mib=max(_finite(log.values("memory_mib")).tolist(), default=None),
                    memory_of=_memory_of(log),
                    device=next((row["device"] for row in reversed(log.rows) if "device" in row), None),
                )
            )
    return rows


def _memory_of(log: Trajectory) -> str | None:
    """Return whether the memory is that of the `stage` or of the `process` so far; older logs name only the device."""
    row = next((row for row in reversed(log.rows) if "memory_mib" in row), None)
    if row is None:
        return None
    return str(row.get("memory_of") or ("stage" if row.get("device") == "cuda" else "process"))


def loss_rows(runs: Sequence[RunLogs], name: str) -> list[LossRow]:
    """Return one row per run and loss of a stage."""
    logs = {run.label: run.stages[name] for run in runs if name in run.stages}
    rows = []
    for loss in distinct_losses(logs):
        for label, log in logs.items():
            values = _finite(log.values(loss))
            if len(values):
                tenth = max(1, len(values) // 10)
                first, last = float(values[:tenth].mean()), float(values[-tenth:].mean())
                rows.append(LossRow(run=label, stage=name, loss=loss, first=first, last=last))
    return rows


def _finite(values: np.ndarray) -> np.ndarray:
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def _mean_weights(log: Trajectory) -> dict[str, list[float]]:
    """Return the mean of every loss weight in each epoch; empty if there is only one loss."""
    names = [name for level in LEVELS for columns in weight_columns(log, level).values() for name in columns]
    return {name: epoch_means(log, name)[1].tolist() for name in names}


def validation_metrics(run: RunLogs) -> FiguresByModel:
    """Return accuracy, macro-F1 and CCC of each mixture by task, in the order of the config, from `result.json`."""
    validation = run.result.validation if run.result else {}
    by_model = {model: metrics_by_task(metrics) for model, metrics in validation.items()}
    return {model: {task: tasks[task] for task in run.in_order(tasks)} for model, tasks in by_model.items()}


def metrics_by_task(metrics: Mapping[str, float]) -> dict[str, TaskFigures]:
    """Group `TASK_accuracy`, `TASK_macro_f1` and `TASK_ccc` by task, with the mean of the first two last, as `MEAN`."""
    tasks: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        for name in ("accuracy", "macro_f1", "ccc"):
            if (key == name and name != "ccc") or key.endswith(f"_{name}"):
                tasks.setdefault(key.removesuffix(name).removesuffix("_") or MEAN, {})[name] = value
                break
    mean = tasks.pop(MEAN, None)
    tasks |= {MEAN: mean} if mean and len(tasks) > 1 else {}
    return {task: TaskFigures.model_validate(its) for task, its in tasks.items()}


def evaluation_rows(run: RunLogs) -> list[EvaluationRow]:
    """Return one row per model from its last evaluation by `moe evaluate` or `moe run`."""
    return [
        EvaluationRow(
            run=run.label,
            model=model,
            rows=report.rows,
            routing_mode=report.routing_mode,
            accuracy=report.mean and report.mean.accuracy,
            macro_f1=report.mean and report.mean.macro_f1,
            right_domain=report.routing.accuracy,
        )
        for model, report in run.evaluations.items()
    ]


def list_omissions(runs: Sequence[RunLogs]) -> list[str]:
    """Return a sentence for each part of the report that is missing."""
    sentences = []
    for run in runs:
        if not run.stages:
            sentences.append(f"{run.label}: no stage has a log, so there are no training curves.")
        if not run.result:
            sentences.append(f"{run.label}: no {RESULT}; the joint stage writes it.")
        if not run.summary:
            sentences.append(f"{run.label}: no {SUMMARY}; moe run writes it as its last step.")
        sentences += [f"{run.label}: {lack} ({', '.join(names)})." for lack, names in _stage_omissions(run).items()]
    for name in stage_names(runs) if len(runs) > 1 else []:
        labels = [run.label for run in runs if name in run.stages]
        sentences += [f"{name}: only in {labels[0]}."] if len(labels) == 1 else []
    return sentences


def _stage_omissions(run: RunLogs) -> dict[str, list[str]]:
    """Return what is missing in the logs of stages, with the names of the stages."""
    stages: dict[str, list[str]] = {}
    for name, log in run.stages.items():
        omissions = {
            "not finished; shown up to the end of the log": name not in run.finished,
            "no evaluations in the log, so no validation curve": not log.evaluations,
            "no seconds and memory in the log": not np.isfinite(log.values("seconds")).any(),
            "single losses only, so no loss weights to plot": not any(weight_columns(log, level) for level in LEVELS),
        }
        for sentence in (sentence for sentence, missing in omissions.items() if missing):
            stages.setdefault(sentence, []).append(name)
    return stages
