"""Tables that compare models in the HTML page: tasks as rows, and as many models as the page is wide."""

from collections.abc import Iterator, Mapping, Sequence

from moe.report.blocks import MAX_COLUMNS, ReportTable, add_run_column, format_cells, split_table
from moe.report.conclusions import differences_tables
from moe.report.terminal import SCORE_COLUMNS, figure, has_scores, mean_of_tasks
from moe.report.training import MEAN, validation_metrics
from moe.results.metrics import MetricFields
from moe.results.run import FiguresByModel, RunSummary
from moe.results.training import TrainingReport
from moe.runs.reader import RunLogs

METRICS = {"macro_f1": "macro-F1", "accuracy": "accuracy"}
HALF_INTERVALS = ", ± half of the 95 % interval"


def model_tables(runs: Sequence[RunLogs], report: TrainingReport) -> Iterator[ReportTable]:
    """Yield the tables: test metrics, paired differences, scores, validation metrics, and the last evaluations."""
    for run in runs:
        suffix = f" of {run.label}" if len(runs) > 1 else ""
        summary = run.summary or RunSummary()
        means = {model: its for model, its in summary.means.items() if its is not None}
        yield from _task_metrics_tables(f"on test rows{suffix}", summary.figures, means)
        yield from differences_tables(summary)
        yield from _scores_tables(summary.figures, suffix)
    for run in runs:
        suffix = f" of {run.label}" if len(runs) > 1 else ""
        models = validation_metrics(run)
        of_mixtures = {model: tasks.pop(MEAN) for model, tasks in models.items() if MEAN in tasks}
        metrics = METRICS | {"ccc": "CCC"}  # of tasks with a score alone
        yield from _task_metrics_tables(f"of the mixtures on validation rows{suffix}", models, of_mixtures, metrics)
    if rows := report.measured:
        header = ["model", "rows", "routing", "accuracy", "macro-F1", "domain accuracy"]
        cells = [
            [
                row.model,
                *format_cells((row.rows, ","), (row.routing_mode, "")),
                *format_cells((row.accuracy, ".3f"), (row.macro_f1, ".3f"), (row.right_domain, ".1%")),
            ]
            for row in rows
        ]
        table = ReportTable("Last evaluations on test rows (mean over tasks)", header, cells)
        yield add_run_column(table, rows, len(runs) > 1)


def _task_metrics_tables(
    rows_of: str,
    models: FiguresByModel,
    means: Mapping[str, MetricFields],
    metrics_by_name: Mapping[str, str] = METRICS,
) -> Iterator[ReportTable]:
    """Yield a table for each metric, with a row per task and their mean last, and a column per model."""
    tasks = list(dict.fromkeys(task for metrics in models.values() for task in metrics))
    for name, title in metrics_by_name.items():
        rows = [task for task in tasks if any(figure(metrics, task, name) is not None for metrics in models.values())]
        if not rows:
            continue
        cells = [[task, *(_metric_cell(metrics.get(task), name) for metrics in models.values())] for task in rows]
        if len(rows) > 1:
            by_model = [means.get(model) or mean_of_tasks(metrics, rows) for model, metrics in models.items()]
            cells.append(["mean", *(_metric_cell(metrics, name) for metrics in by_model)])
        spread = HALF_INTERVALS if any("±" in cell for row in cells for cell in row) else ""
        table = ReportTable(f"{_capitalize(title)} {rows_of}{spread}", ["task", *models], cells, is_mean_last=True)
        yield from split_table(table, fixed=1, maximum=MAX_COLUMNS)


def _capitalize(title: str) -> str:
    return title[:1].upper() + title[1:]


def _metric_cell(metrics: MetricFields | None, name: str) -> str:
    """Format a metric with half of its interval on a second line."""
    if metrics is None or (value := metrics.value(name)) is None:
        return "–"
    interval = metrics.interval(name)
    spread = f"\n±{(interval[1] - interval[0]) / 2:.3f}".replace("0.", ".") if interval else ""
    return f"{value:.3f}{spread}"


def scores_tables(title: str, scores: Mapping[str, MetricFields]) -> Iterator[ReportTable]:
    """Yield a table of errors and correlations with a row per task, ± half of the 95 % interval; none without tasks."""
    if scores:
        cells = [[task, *(_metric_cell(its, name) for name in SCORE_COLUMNS)] for task, its in scores.items()]
        yield ReportTable(f"{title}{HALF_INTERVALS}", ["task", *(name for name, _ in SCORE_COLUMNS.values())], cells)


def _scores_tables(models: FiguresByModel, suffix: str) -> Iterator[ReportTable]:
    """Yield a table of errors and correlations for each task with scores, with a row per model."""
    for task in dict.fromkeys(task for metrics in models.values() for task in metrics):
        rows = {model: metrics[task] for model, metrics in models.items() if task in metrics}
        cells = [
            [model, *format_cells(*((metrics.value(name), ".3f") for name in SCORE_COLUMNS))]
            for model, metrics in rows.items()
            if has_scores(metrics)
        ]
        header = ["model", *(title for title, _ in SCORE_COLUMNS.values())]
        yield ReportTable(f"Scores of {task} on test rows{suffix}", header, cells)
