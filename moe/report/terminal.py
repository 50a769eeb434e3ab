"""Terminal output: tables of metrics, routing, predictions, training stages, augmentation and verification."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from moe.console import Table
from moe.runs.selection_metric import selection_metric_of

LABEL_STYLES = {"negative": "red", "positive": "green", "bearish": "red", "bullish": "green"}


def comparison_table(title: str, models: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """Build a table with a row per model and two columns (accuracy, macro-F1) per task; the best values are bold.

    Args:
        models: by model and task: `accuracy` and `macro_f1` in [0, 1], and, if known, their `…_interval`.
    """
    tasks = list(dict.fromkeys(task for metrics in models.values() for task in metrics))
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("model")
    for task in tasks:
        table.add_column(f"{task}\naccuracy", justify="right")
        table.add_column(f"{task}\nmacro-F1", justify="right")
    columns = [(task, name) for task in tasks for name in ("accuracy", "macro_f1")]
    best = {
        (task, name): max((metrics.get(task, {}).get(name, -1.0) for metrics in models.values()), default=-1.0)
        for task, name in columns
    }
    for model, metrics in models.items():
        cells = []
        for task, name in columns:
            values = metrics.get(task, {})
            cells.append(_metric_with_spread(values, name, bold=values.get(name) == best[task, name]))
        table.add_row(model, *cells)
    return table


def _metric_with_spread(metrics: Mapping[str, Any], name: str, bold: bool) -> Text:
    text = _metric_text(metrics.get(name), bold)
    if interval := metrics.get(f"{name}_interval"):
        text.append(f" ±{(interval[1] - interval[0]) / 2:.3f}".replace("0.", ".", 1), style="dim")
    return text


def _metric_text(value: float | None, bold: bool = False) -> Text:
    return Text("–" if value is None else f"{value:.3f}", style="bold" if bold else "")


def routing_table(report: Mapping[str, Any]) -> RenderableType:
    """Build a table of mean routing weights by domain and expert, with domain accuracy and entropy below."""
    experts = list(dict.fromkeys(name for weights in report["table"].values() for name in weights))
    table = Table(title="mean routing weight of each expert", title_justify="left", header_style="bold")
    table.add_column("texts of")
    for name in experts:
        table.add_column(name, justify="right")
    for domain, weights in report["table"].items():
        table.add_row(domain, *[_weight_text(weights.get(name, 0.0)) for name in experts])
    line = f"{report['accuracy']:.1%} of texts routed to their own domain, mean routing entropy {report['entropy']:.3f}"
    return Group(table, Text(line))


def _weight_text(weight: float) -> Text:
    return Text(f"{weight:.1%}", style="bold cyan" if weight >= 0.5 else "dim" if weight < 0.05 else "")


def answers_table(rows: Iterable[Mapping[str, Any]], title: str | None = None) -> Table:
    """Build a table with a row per text: label, probability, polarity and routing weights; or the error.

    If any row has a target, there is a column for it.
    """
    shown = list(rows)
    targets = any(row.get("target") is not None for row in shown)
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("text", ratio=1, overflow="fold")
    if targets:
        table.add_column("target", overflow="fold")
    for name in ("label", "probability", "polarity", "experts"):
        table.add_column(name, justify="left" if name in ("label", "experts") else "right", no_wrap=True)
    for row in shown:
        target = [_target_cell(row)] if targets else []
        if "error" in row:
            text = str(row.get("text") or "")
            table.add_row(text, *target, Text("error", style="red"), "", "", str(row["error"]))
        else:
            cells = _answer_cells(row)
            table.add_row(cells[0], *target, *cells[1:])
    return table


def _target_cell(row: Mapping[str, Any]) -> Text:
    """The target of a row; marked if the text does not contain it or it was cut."""
    warnings = [
        name for name, key in (("not in the text", "target_missing"), ("cut", "target_truncated")) if row.get(key)
    ]
    cell = Text(str(row.get("target") or ""))
    return cell.append(f" ({', '.join(warnings)})", style="yellow") if warnings else cell


def _answer_cells(row: Mapping[str, Any]) -> list[RenderableType]:
    weights = sorted(row["experts"].items(), key=lambda item: -item[1])
    label = row["label"]
    return [
        str(row["text"]) + (" ✂" if row["truncated"] else ""),
        Text("abstained", style="dim") if label is None else Text(label, style=LABEL_STYLES.get(label, "yellow")),
        f"{row['confidence']:.3f}",
        "–" if row["polarity"] is None else f"{row['polarity']:+.2f}",
        " ".join(f"{name} {weight:.0%}" for name, weight in weights[:3]),
    ]


def evaluation_view(report: Mapping[str, Any]) -> RenderableType:
    """Output of `moe evaluate` for a classification run."""
    parts: list[RenderableType] = [_metrics_table(report)]
    parts += [_class_table(task, metrics) for task, metrics in report["tasks"].items()]
    parts += [scores_table("polarity scores, 95 % intervals", report["scores"])] if report["scores"] else []
    return Group(*parts, routing_table(report["routing"]))


def _metrics_table(report: Mapping[str, Any]) -> Table:
    """Build a table of accuracy and macro-F1 by task and their mean, each with its interval."""
    title = f"{report['rows']} texts, {report['routing_mode']} routing, 95 % intervals"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "labels of", "accuracy", "95 %", "macro-F1", "95 %"):
        table.add_column(name, justify="left" if name in ("task", "labels of") else "right")
    for task, metrics in report["tasks"].items():
        table.add_row(task, "true domain", *_metrics_with_intervals(metrics))
        table.add_row("", "routed domain", *_metrics_with_intervals(report["tasks_routed"][task]), end_section=True)
    if report["mean"]:
        table.add_row("mean", "true domain", *_metrics_with_intervals(report["mean"]))
    return table


def _metrics_with_intervals(metrics: Mapping[str, Any]) -> list[Text]:
    return [
        cell
        for name in ("accuracy", "macro_f1")
        for cell in (_metric_text(metrics[name]), format_interval(metrics[f"{name}_interval"]))
    ]


def format_interval(interval: Sequence[float]) -> Text:
    """Format an interval as low–high."""
    return Text(f"{interval[0]:.3f}–{interval[1]:.3f}", style="dim")


SCORE_TITLES = {"mse": "MSE", "mae": "MAE", "pearson": "Pearson", "spearman": "Spearman", "cosine": "cosine"}


def scores_table(title: str, reports: Mapping[str, Mapping[str, Any]], of: str = "task") -> Table:
    """Build a table of score metrics with their intervals, a row per task or model; a dash where one is undefined.

    Args:
        reports: metrics as of `moe.evaluation.metrics.regression`, by the name in the first column.
        of: header of the first column.
    """
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column(of)
    for name in SCORE_TITLES.values():
        table.add_column(name, justify="right")
    for row, metrics in reports.items():
        cells = []
        for name in SCORE_TITLES:
            cell = _metric_text(metrics.get(name))
            if interval := metrics.get(f"{name}_interval"):
                cell.append("\n").append(format_interval(interval))
            cells.append(cell)
        table.add_row(row, *cells)
    return table


def _class_table(task: str, report: Mapping[str, Any]) -> Table:
    title = f"{task}: metrics by class, and the labels predicted for its rows"
    table = Table(title=title, title_justify="left", header_style="bold")
    labels: Sequence[str] = report["confusion"]["labels"]
    for name in ("label", "precision", "recall", "F1", "rows"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for label in labels:
        table.add_column(f"→ {label}", justify="right")
    for i, label in enumerate(labels):
        metrics = report["per_class"][label]
        counts = [str(count) for count in report["confusion"]["rows"][i][: len(labels)]]
        cells = [_metric_text(metrics[key]) for key in ("precision", "recall", "f1")]
        table.add_row(label, *cells, str(int(metrics["support"])), *counts)
    return table


def training_view(report: Mapping[str, Any]) -> RenderableType:
    """Output of `moe report`: stages, metrics of the mixtures, and the paths of page and card."""
    parts: list[RenderableType] = [stages_table(report["stages"])] if report["stages"] else []
    for split, key in (("validation", "validation"), ("test rows", "test")):
        for run, models in report[key].items():
            title = f"{split}, {run}" if len(report[key]) > 1 else split
            parts += [comparison_table(title, models)] if models else []
    parts += [Text(report["verdict"])] if report["verdict"] else []
    return Group(*parts, *map(Text, report["left_out"]), Text(f"page: {report['page']}, card: {report['card']}"))


def stages_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Build a table with a row per stage and run: steps, best validation metric, seconds, peak memory."""
    several = len({row["run"] for row in rows}) > 1
    table = Table(title="training by stage", title_justify="left", header_style="bold")
    for name in ("stage", *(("run",) if several else ())):
        table.add_column(name, overflow="fold")
    metric = selection_metric_of(rows)
    for name in ("steps", f"best val.\n{metric.title}", "seconds", "with\nevals", "s/step", "peak MiB"):
        table.add_column(name, justify="right")
    formats = {
        metric.name: metric.format_spec,
        "seconds": ",.1f",
        "wall_seconds": ",.1f",
        "seconds_per_step": ".3f",
        "peak_mib": ",.0f",
    }
    for row in rows:
        cells = ["–" if row[name] is None else format(row[name], spec) for name, spec in formats.items()]
        stage = row["stage"] + ("" if row["finished"] else " (not finished)")
        table.add_row(stage, *((row["run"],) if several else ()), str(row["steps"]), *cells)
    return table


def augment_view(report: Mapping[str, Any]) -> RenderableType:
    """Output of `moe data augment`: a table of counts, with the prompts of a dry run below."""
    table = Table(header_style="bold")
    for name in ("domain", "task", "training rows", "requested", "retained"):
        table.add_column(name, justify="left" if name in ("domain", "task", "requested") else "right")
    table.add_column("dropped")
    for task in report["tasks"]:
        requested = ", ".join(f"{count} {kind}" for kind, count in task["wanted"].items())
        retained = str(sum(task["kept"].values())) if "kept" in task else "–"
        dropped = "\n".join(f"{count} {reason}" for reason, count in task.get("dropped", {}).items()) or "–"
        table.add_row(task["domain"], task["task"], str(task["rows"]), requested, retained, dropped)
    return Group(table, *(_prompt_view(prompt) for prompt in report.get("prompts", ())))


def _prompt_view(prompt: Mapping[str, Any]) -> RenderableType:
    messages = "\n".join(
        f"[dim]{message['role']}:[/dim] {escape(message['content'])}" for message in prompt["messages"]
    )
    return Text.from_markup(f"\n[bold]{escape(prompt['id'])}, {prompt['origin']}[/bold]\n{messages}")


def verify_view(report: Mapping[str, Any]) -> RenderableType:
    """Output of `moe verify`: a line per folder, with its faults and remarks below."""
    lines: list[RenderableType] = []
    for folder in report["folders"]:
        status = "[red]damaged[/red]" if folder["faults"] else "[green]intact[/green]"
        lines.append(
            Text.from_markup(f"{status}  {escape(folder['folder'])}, {folder['kind']}, {folder['files']} files")
        )
        lines += [Text(f"  {fault}", style="red") for fault in folder["faults"]]
        lines += [Text(f"  {remark}", style="dim") for remark in folder["remarks"]]
    return Group(*lines)
