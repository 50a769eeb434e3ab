"""Terminal output: tables of metrics, routing, predictions and training stages."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, TypeVar

from rich.console import Group, RenderableType
from rich.text import Text

from moe.console import Table
from moe.report.blocks import format_cells
from moe.report.column_blocks import BlockRow, ColumnBlocks, RoutingMatrix
from moe.report.conclusions import describe_never_predicted, describe_sets
from moe.report.label_sets import label_set_view
from moe.results.base import Bounds
from moe.results.evaluation import EvaluationReport, RoutingReport
from moe.results.metrics import LabelMetrics, MetricFields, TaskFigures
from moe.results.run import FiguresByModel
from moe.results.training import RunReport, StageRow
from moe.runs.selection_metric import selection_title, selection_value

M = TypeVar("M", bound=MetricFields)

LABEL_STYLES = {"negative": "red", "positive": "green", "bearish": "red", "bullish": "green"}
MAX_TASKS_WITH_ACCURACY = 3
"""Maximum number of tasks whose accuracy is printed next to the macro-F1."""
LONG_TEXT = 60
"""Characters of a text that takes several lines in a table of predictions."""
SCORE_COLUMNS: dict[str, tuple[str, Callable[[list[float]], float]]] = {
    "mse": ("MSE", min),
    "mae": ("MAE", min),
    "ccc": ("CCC", max),
    "pearson": ("Pearson", max),
    "spearman": ("Spearman", max),
    "cosine": ("cosine", max),
}
"""Titles of the metrics of scores, and which value is the best."""


def comparison_table(
    title: str,
    models: FiguresByModel,
    means: Mapping[str, MetricFields | None] | None = None,
) -> RenderableType:
    """Build a table of macro-F1 with tasks as rows and models as columns, their mean last; the best values are bold.

    Up to `MAX_TASKS_WITH_ACCURACY` tasks also have their accuracy. Below it, tasks with scores have a table of their
    errors and correlations.

    Args:
        models: metrics by model and task.
        means: means over tasks by model; by default the mean over the tasks here, without an interval.
    """
    all_tasks = dict.fromkeys(task for metrics in models.values() for task in metrics)
    tasks = [
        task for task in all_tasks if any(figure(metrics, task, "macro_f1") is not None for metrics in models.values())
    ]
    rows: dict[str, list[MetricFields | None]]
    rows = {task: [metrics.get(task) for metrics in models.values()] for task in tasks}
    if len(tasks) > 1:
        rows["mean"] = [(means or {}).get(model) or mean_of_tasks(models[model], tasks) for model in models]
    with_accuracy = len(tasks) <= MAX_TASKS_WITH_ACCURACY
    lines = []
    for task, values in rows.items():
        lines.append(BlockRow([task], _best_in_bold(values, "macro_f1"), with_accuracy or task == "mean"))
        lines += [BlockRow(["  accuracy"], _best_in_bold(values, "accuracy"))] if with_accuracy else []
    table = ColumnBlocks(title, ["task, macro-F1"], list(models), lines)
    scores = _scores_table("scores", {model: with_scores(metrics) for model, metrics in models.items()})
    return Group(*([table] if tasks else []), *([scores] if scores else []))


def figure(metrics: Mapping[str, TaskFigures], task: str, name: str) -> float | None:
    """Return a metric of a task by its name; None if it is not known."""
    return metrics[task].value(name) if task in metrics else None


def mean_of_tasks(metrics: Mapping[str, TaskFigures], tasks: Sequence[str]) -> TaskFigures:
    """Return the mean accuracy and macro-F1 over tasks, without intervals; empty if a task is missing."""
    present = [metrics[task] for task in tasks if task in metrics]
    if len(present) < len(tasks):
        return TaskFigures()
    accuracy, macro_f1 = ([its.value(name) for its in present] for name in ("accuracy", "macro_f1"))
    return TaskFigures(accuracy=_mean(accuracy), macro_f1=_mean(macro_f1))


def _mean(values: Sequence[float | None]) -> float | None:
    """Mean of values; None if one of them is missing."""
    known = [value for value in values if value is not None]
    return fmean(known) if known and len(known) == len(values) else None


def _best_in_bold(metrics: Sequence[MetricFields | None], name: str) -> list[Text]:
    """Format a metric of every model with half of its interval; the largest is bold if it stands out."""
    values = [value for its in metrics if its is not None and (value := its.value(name)) is not None]
    best = max(values) if len(set(values)) > 1 else None
    return [_metric_with_spread(its, name, best) for its in metrics]


def _metric_with_spread(metrics: MetricFields | None, name: str, best: float | None) -> Text:
    if metrics is None:
        return _metric_text(None)
    value = metrics.value(name)
    text = _metric_text(value, bold=value is not None and value == best)
    if interval := metrics.interval(name):
        text.append(f" ±{(interval[1] - interval[0]) / 2:.3f}".replace("0.", ".", 1), style="dim")
    return text


def _metric_text(value: float | None, bold: bool = False) -> Text:
    return Text("–" if value is None else f"{value:.3f}", style="bold" if bold else "")


def has_scores(metrics: MetricFields) -> bool:
    """Whether the metrics of a task are, or include, those of its scores."""
    return any(metrics.value(name) is not None for name in SCORE_COLUMNS)


def with_scores(metrics: Mapping[str, M]) -> dict[str, M]:
    """Return the metrics of the tasks with scores."""
    return {task: its for task, its in metrics.items() if has_scores(its)}


def _scores_table(title: str, models: Mapping[str, Mapping[str, MetricFields]]) -> Table | None:
    """Build a table of the errors and correlations of predicted scores, by task and model; None without scores.

    With one model there is no column of models, and a metric with an interval has it on a second line.

    Args:
        models: metrics by model and task with scores.
    """
    tasks = dict.fromkeys(task for metrics in models.values() for task in metrics)
    if not tasks:
        return None
    left = ("task", "model") if len(models) > 1 else ("task",)
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in (*left, *(column for column, _ in SCORE_COLUMNS.values())):
        table.add_column(name, justify="left" if name in left else "right")
    for task in tasks:
        rows = {model: metrics[task] for model, metrics in models.items() if task in metrics}
        best = {
            name: choose(numbers)
            for name, (_, choose) in SCORE_COLUMNS.items()
            if len(set(numbers := [value for its in rows.values() if (value := its.value(name)) is not None])) > 1
        }
        for i, (model, its) in enumerate(rows.items()):
            names = (task if i == 0 else "", model)[: len(left)]
            cells = [_score_cell(its, name, best.get(name), len(models) == 1) for name in SCORE_COLUMNS]
            table.add_row(*map(Text, names), *cells, end_section=i + 1 == len(rows))
    return table


def _score_cell(metrics: MetricFields, name: str, best: float | None, with_interval: bool) -> Text:
    value = metrics.value(name)
    cell = _metric_text(value, bold=value is not None and value == best)
    if with_interval and (interval := metrics.interval(name)):
        cell.append("\n").append(format_interval(interval))
    return cell


def routing_table(report: RoutingReport) -> RenderableType:
    """Build a table of mean routing weights by domain and expert, with domain accuracy and entropy below."""
    line = f"{report.accuracy:.1%} of texts routed to their own domain, mean routing entropy {report.entropy:.3f}"
    return Group(RoutingMatrix(report.table), Text(line))


def answers_table(rows: Iterable[Mapping[str, object]], title: str | None = None) -> Table:
    """Build a table with a row per text: label, probability, polarity and routing weights; or the error.

    If any row has a target or a set of labels, there is a column for it.
    """
    shown = list(rows)
    targets = any(row.get("target") is not None for row in shown)
    sets = any("label_set" in row for row in shown)
    # Experts one below the other leave more width to texts that take several lines anyway.
    separator = "\n" if any(len(str(row.get("text") or "")) > LONG_TEXT for row in shown) else " "
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("text", ratio=1, overflow="fold")
    if targets:
        table.add_column("target", overflow="fold")
    if sets:
        table.add_column("label set", overflow="fold")
    for name in ("label", "probability", "polarity", "experts"):
        table.add_column(name, justify="left" if name in ("label", "experts") else "right", no_wrap=True)
    for row in shown:
        between = [_target_cell(row)] if targets else []
        between += [_set_cell(row)] if sets else []
        if "error" in row:
            text = str(row.get("text") or "")
            table.add_row(text, *between, Text("error", style="red"), "", "", str(row["error"]))
        else:
            cells = _answer_cells(row, separator)
            table.add_row(cells[0], *between, *cells[1:])
    return table


def _set_cell(row: Mapping[str, Any]) -> Text:
    """The labels of a row's set, the most probable first."""
    return Text(", ".join(row.get("label_set", ())))


def _target_cell(row: Mapping[str, Any]) -> Text:
    """The target of a row; marked if the text does not contain it or it was cut."""
    warnings = [
        name for name, key in (("not in the text", "target_missing"), ("cut", "target_truncated")) if row.get(key)
    ]
    cell = Text(str(row.get("target") or ""))
    return cell.append(f" ({', '.join(warnings)})", style="yellow") if warnings else cell


def _answer_cells(row: Mapping[str, Any], separator: str) -> list[RenderableType]:
    weights = sorted(row["experts"].items(), key=lambda item: -item[1])
    label, windows = row["label"], row.get("windows") or 1
    scored = row["confidence"] is None  # a score alone, which is the polarity
    marks = f"{' ✂' if row['truncated'] else ''}{f' ({windows} windows)' if windows > 1 else ''}"
    return [
        f"{row['text']}{marks}{' (unfamiliar)' if row.get('unfamiliar') else ''}",
        _label_cell(label, row.get("labels")) if not scored else Text("–", style="dim"),
        "–" if scored else f"{row['confidence']:.3f}",
        "–" if row["polarity"] is None else f"{row['polarity']:+.2f}",
        separator.join(f"{name} {weight:.0%}" for name, weight in weights[:3]),
    ]


def _label_cell(label: str | None, labels: Sequence[str] | None) -> Text:
    """The predicted label; of a multi-label task each of them on a line of its own."""
    if label is None:
        return Text("abstained", style="dim")
    if labels is None:
        return Text(label, style=LABEL_STYLES.get(label, "yellow"))
    if not labels:
        return Text("no label", style="dim")
    return Text("\n").join(Text(name, style=LABEL_STYLES.get(name, "yellow")) for name in labels)


def evaluation_view(report: EvaluationReport) -> RenderableType:
    """Output of `moe evaluate` for a classification run."""
    title = f"{report.rows} texts, {report.routing_mode} routing, 95 % intervals"
    parts: list[RenderableType] = [_metrics_table(report, title)] if report.tasks else [Text(title)]
    parts += [_class_table(task, metrics) for task, metrics in report.tasks.items()]
    scores = _scores_table("polarity scores, 95 % intervals", {"": report.scores})
    parts += [scores] if scores else []
    never = describe_never_predicted(report.tasks)
    parts += [Text(never)] if never else []
    parts += [label_set_view(report.label_sets)] if report.label_sets is not None else []
    return Group(*parts, routing_table(report.routing))


def _metrics_table(report: EvaluationReport, title: str) -> Table:
    """Build a table of accuracy and macro-F1 by task and their mean, each with its interval."""
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "labels of", "accuracy", "95 %", "macro-F1", "95 %"):
        table.add_column(name, justify="left" if name in ("task", "labels of") else "right")
    for task, metrics in report.tasks.items():
        table.add_row(task, "true domain", *_metrics_with_intervals(metrics))
        table.add_row("", "routed domain", *_metrics_with_intervals(report.tasks_routed[task]), end_section=True)
    if report.mean is not None:
        table.add_row("mean", "true domain", *_metrics_with_intervals(report.mean))
    return table


def _metrics_with_intervals(metrics: MetricFields) -> list[Text]:
    return [
        cell
        for name in ("accuracy", "macro_f1")
        for cell in (_metric_text(metrics.value(name)), format_interval(metrics.interval(name)))
    ]


def format_interval(interval: Bounds | None) -> Text:
    """Format an interval as low–high."""
    return Text("–" if interval is None else f"{interval[0]:.3f}–{interval[1]:.3f}", style="dim")


def _class_table(task: str, report: LabelMetrics) -> Table:
    if report.confusion is None:
        return _label_table(task, report)
    kappa = "" if report.quadratic_kappa is None else f"quadratic-weighted kappa {report.quadratic_kappa:.3f}; "
    title = f"{task}: {kappa}metrics by class, and the labels predicted for its rows"
    table = Table(title=title, title_justify="left", header_style="bold")
    labels = report.confusion.labels
    for name in ("label", "precision", "recall", "F1", "rows"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label in labels:
        table.add_column(f"→ {label}", justify="right")
    for i, label in enumerate(labels):
        metrics = report.per_class[label]
        counts = [str(count) for count in report.confusion.rows[i][: len(labels)]]
        cells = [_metric_text(value) for value in (metrics.precision, metrics.recall, metrics.f1)]
        table.add_row(label, *cells, str(int(metrics.support)), *counts)
    return table


def _label_table(task: str, report: LabelMetrics) -> Table:
    """Build the table of a multi-label task, whose accuracy is that of exact sets."""
    title = f"{task}: {describe_sets(report)}; metrics by label"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("label", "precision", "recall", "F1", "rows"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label, its in report.per_class.items():
        cells = [_metric_text(value) for value in (its.precision, its.recall, its.f1)]
        table.add_row(label, *cells, str(int(its.support)))
    return table


def training_view(report: RunReport) -> RenderableType:
    """Output of `moe report`: stages, metrics of the mixtures, and the paths of page and card."""
    parts: list[RenderableType] = [stages_table(report.stages)] if report.stages else []
    for split, runs in (("validation", report.validation), ("test rows", report.test)):
        for run, models in runs.items():
            title = f"{split}, {run}" if len(runs) > 1 else split
            tasks = {model: {t: its for t, its in metrics.items() if t != "mean"} for model, metrics in models.items()}
            means: dict[str, MetricFields | None] = {
                model: metrics["mean"] for model, metrics in models.items() if "mean" in metrics
            }
            means |= report.test_means.get(run, {}) if runs is report.test else {}
            parts += [comparison_table(title, tasks, means)] if models else []
    sentences = [report.verdict, *report.conclusions, report.never_predicted]
    parts += [Text(sentence) for sentence in sentences if sentence]
    return Group(*parts, *map(Text, report.left_out), Text(f"page: {report.page}, card: {report.card}"))


def stages_table(rows: Sequence[StageRow]) -> Table:
    """Build a table with a row per stage and run: steps, best validation metric, seconds, peak memory."""
    several = len({row.run for row in rows}) > 1
    table = Table(title="training by stage", title_justify="left", header_style="bold")
    for name in ("stage", *(("run",) if several else ())):
        table.add_column(name, overflow="fold")
    for name in ("steps", f"best val.\n{selection_title(rows)}", "seconds", "with\nevals", "s/step", "peak MiB"):
        table.add_column(name, justify="right")
    for row in rows:
        cells = format_cells(
            selection_value(row),
            (row.seconds, ",.1f"),
            (row.wall_seconds, ",.1f"),
            (row.seconds_per_step, ".3f"),
            (row.peak_mib, ",.0f"),
        )
        stage = row.stage + ("" if row.finished else " (not finished)")
        table.add_row(stage, *((row.run,) if several else ()), str(row.steps), *cells)
    return table
