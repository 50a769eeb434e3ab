"""What a person sees at the end: tables of figures, routing and predictions, drawn with rich.

The figures themselves are `moe.evaluation.evaluate`'s and `moe.inference.stream`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from moe.console import Table
from moe.runs.selection_metric import selection_metric_of

STYLES = {"negative": "red", "positive": "green", "bearish": "red", "bullish": "green"}


def comparison_table(title: str, rows: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Table:
    """One row a model, one pair of columns (accuracy, macro-F1) a task; the highest figure of each in bold.

    Args:
        rows: by model, by task: `accuracy` and `macro_f1` in [0, 1], and, where they are known, their `…_interval`.
    """
    tasks = list(dict.fromkeys(task for figures in rows.values() for task in figures))
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("model")
    for task in tasks:
        table.add_column(f"{task}\naccuracy", justify="right")
        table.add_column(f"{task}\nmacro-F1", justify="right")
    keys = [(task, name) for task in tasks for name in ("accuracy", "macro_f1")]
    highest = {key: max((f.get(key[0], {}).get(key[1], -1.0) for f in rows.values()), default=-1.0) for key in keys}
    for model, figures in rows.items():
        cells = [(figures.get(task, {}), name, highest[task, name]) for task, name in keys]
        table.add_row(model, *[_with_spread(own, name, own.get(name) == best) for own, name, best in cells])
    return table


def _with_spread(figures: Mapping[str, Any], name: str, bold: bool) -> Text:
    text = _figure(figures.get(name), bold)
    if ends := figures.get(f"{name}_interval"):
        text.append(f" ±{(ends[1] - ends[0]) / 2:.3f}".replace("0.", ".", 1), style="dim")
    return text


def _figure(value: float | None, bold: bool = False) -> Text:
    return Text("–" if value is None else f"{value:.3f}", style="bold" if bold else "")


def routing_table(report: Mapping[str, Any]) -> RenderableType:
    """Domain × expert mean soft shares, and how often the right domain was chosen."""
    experts = list(dict.fromkeys(name for shares in report["table"].values() for name in shares))
    table = Table(title="routing: mean share of each expert", title_justify="left", header_style="bold")
    table.add_column("texts of")
    for name in experts:
        table.add_column(name, justify="right")
    for domain, shares in report["table"].items():
        table.add_row(domain, *[_share(shares.get(name, 0.0)) for name in experts])
    line = f"right domain for {report['accuracy']:.1%} of texts, mean routing entropy {report['entropy']:.3f}"
    return Group(table, Text(line))


def _share(value: float) -> Text:
    return Text(f"{value:.1%}", style="bold cyan" if value >= 0.5 else "dim" if value < 0.05 else "")


def answers_table(rows: Iterable[Mapping[str, Any]], title: str | None = None) -> Table:
    """One row a text: label, probability, polarity, expert shares; or its error."""
    table = Table(title=title, title_justify="left", header_style="bold")
    table.add_column("text", ratio=1, overflow="fold")
    for name in ("label", "probability", "polarity", "experts"):
        table.add_column(name, justify="left" if name in ("label", "experts") else "right", no_wrap=True)
    for row in rows:
        if "error" in row:
            table.add_row(str(row.get("text") or ""), Text("error", style="red"), "", "", str(row["error"]))
        else:
            table.add_row(*_answer_cells(row))
    return table


def _answer_cells(row: Mapping[str, Any]) -> list[RenderableType]:
    shares = sorted(row["experts"].items(), key=lambda item: -item[1])
    told = " ".join(f"{name} {share:.0%}" for name, share in shares[:3])
    polarity = "–" if row["polarity"] is None else f"{row['polarity']:+.2f}"
    text = str(row["text"]) + (" ✂" if row["truncated"] else "")
    return [
        text,
        Text("abstained", style="dim") if row["label"] is None else Text(row["label"], style=_style(row["label"])),
        f"{row['confidence']:.3f}",
        polarity,
        told,
    ]


def _style(label: str) -> str:
    return STYLES.get(label, "yellow")


def evaluation_view(report: Mapping[str, Any]) -> RenderableType:
    """All that `moe evaluate` prints."""
    parts: list[RenderableType] = [_figures_table(report)]
    parts += [_class_table(task, one) for task, one in report["tasks"].items()]
    parts += [Text(_scores_line(task, one)) for task, one in report["scores"].items()]
    return Group(*parts, routing_table(report["routing"]))


def _figures_table(report: Mapping[str, Any]) -> Table:
    """Accuracy and macro-F1 by task and over all, each with its interval."""
    title = f"{report['rows']} texts, {report['routing_mode']}; with 95 % intervals"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "labels of", "accuracy", "95 %", "macro-F1", "95 %"):
        table.add_column(name, justify="left" if name in ("task", "labels of") else "right")
    for task, one in report["tasks"].items():
        table.add_row(task, "true domain", *_sure_figures(one))
        table.add_row("", "routed domain", *_sure_figures(report["tasks_routed"][task]), end_section=True)
    if report["mean"]:
        table.add_row("mean", "true domain", *_sure_figures(report["mean"]))
    return table


def _sure_figures(one: Mapping[str, Any]) -> list[Text]:
    return [part for name in ("accuracy", "macro_f1") for part in (_figure(one[name]), format_interval(one[f"{name}_interval"]))]


def format_interval(interval: Sequence[float]) -> Text:
    """An interval's two ends."""
    return Text(f"{interval[0]:.3f}–{interval[1]:.3f}", style="dim")


def _scores_line(task: str, figures: Mapping[str, float]) -> str:
    return f"{task} polarity: " + ", ".join(f"{name.upper()} {value:.4f}" for name, value in figures.items())


def _class_table(task: str, report: Mapping[str, Any]) -> Table:
    table = Table(title=f"{task}: by class, and what its rows were called", title_justify="left", header_style="bold")
    names: Sequence[str] = report["confusion"]["labels"]
    for name in ("label", "precision", "recall", "F1", "rows"):
        table.add_column(name, justify="left" if name == "label" else "right")
    for name in names:
        table.add_column(f"→ {name}", justify="right")
    for i, name in enumerate(names):
        one = report["per_class"][name]
        counts = [str(count) for count in report["confusion"]["rows"][i][: len(names)]]
        figures = [_figure(one[key]) for key in ("precision", "recall", "f1")]
        table.add_row(name, *figures, str(int(one["support"])), *counts)
    return table


def training_view(report: Mapping[str, Any]) -> RenderableType:
    """All that `moe report` prints: its stages, the figures of the mixtures, and where page and card are."""
    parts: list[RenderableType] = [stages_table(report["stages"])] if report["stages"] else []
    for told, key in (("validation", "validation"), ("test rows", "test")):
        for run, figures in report[key].items():
            title = f"{told}, {run}" if len(report[key]) > 1 else told
            parts += [comparison_table(title, figures)] if figures else []
    parts += [Text(report["verdict"])] if report["verdict"] else []
    return Group(*parts, *map(Text, report["left_out"]), Text(f"page: {report['page']}, card: {report['card']}"))


def stages_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One row a stage and run: steps, best validation macro-F1, seconds, peak memory."""
    several = len({row["run"] for row in rows}) > 1
    table = Table(title="training, stage by stage", title_justify="left", header_style="bold")
    for name in ("stage", *(("run",) if several else ())):
        table.add_column(name, overflow="fold")
    goal = selection_metric_of(rows)
    for name in ("steps", f"best val.\n{goal.title}", "seconds", "with\nevals", "s/step", "peak MiB"):
        table.add_column(name, justify="right")
    forms = {
        goal.name: goal.format_spec,
        "seconds": ",.1f",
        "wall_seconds": ",.1f",
        "seconds_per_step": ".3f",
        "peak_mib": ",.0f",
    }
    for row in rows:
        figures = ["–" if row[name] is None else format(row[name], how) for name, how in forms.items()]
        stage = row["stage"] + ("" if row["finished"] else " (not finished)")
        table.add_row(stage, *((row["run"],) if several else ()), str(row["steps"]), *figures)
    return table


def augment_view(report: Mapping[str, Any]) -> RenderableType:
    """A report of `moe.augment.pipeline` as a table, prompts below it."""
    table = Table(header_style="bold")
    for name in ("domain", "task", "training rows", "wanted", "kept"):
        table.add_column(name, justify="left" if name in ("domain", "task", "wanted") else "right")
    table.add_column("dropped")
    for one in report["tasks"]:
        kept = str(sum(one["kept"].values())) if "kept" in one else "–"
        gone = "\n".join(f"{count} {reason}" for reason, count in one.get("dropped", {}).items()) or "–"
        wanted = ", ".join(f"{count} {kind}" for kind, count in one["wanted"].items())
        cells = (one["domain"], one["task"], one["rows"], wanted, kept, gone)
        table.add_row(*map(str, cells))
    return Group(table, *(_prompt_view(one) for one in report.get("prompts", ())))


def _prompt_view(one: Mapping[str, Any]) -> RenderableType:
    said = "\n".join(f"[dim]{part['role']}:[/dim] {escape(part['content'])}" for part in one["messages"])
    return Text.from_markup(f"\n[bold]{escape(one['id'])}, {one['origin']}[/bold]\n{said}")


def verify_view(report: Mapping[str, Any]) -> RenderableType:
    """A report of `moe.integrity`: a line a folder, its faults and remarks below it."""
    lines: list[RenderableType] = []
    for one in report["folders"]:
        verdict = "[red]not whole[/red]" if one["faults"] else "[green]whole[/green]"
        lines.append(Text.from_markup(f"{verdict}  {escape(one['folder'])}, {one['kind']}, {one['files']} files"))
        lines += [Text(f"  {fault}", style="red") for fault in one["faults"]]
        lines += [Text(f"  {remark}", style="dim") for remark in one["remarks"]]
    return Group(*lines)
