"""The report of a run as files: pictures, `report.json`, one page that holds all of them, and a card in Markdown.

Training is told by `moe.report.training` and drawn by `moe.plots.training`, what it came to by `moe.report.sections`;
the card is `moe.report.model_card`'s, tables for terminals are `moe.report.terminal`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experts.atomic_io import atomic_file, write_json, write_text
from moe.console import progress_bar
from moe.extras import check_extra, require
from moe.plots.curves import LEVELS
from moe.plots.training import cost_chart, validation_chart, losses_chart, routing_chart, weights_chart
from moe.report.blocks import ReportFigure, Section, ReportTable
from moe.report.model_card import format_model_card
from moe.report.sections import build_sections
from moe.report.training import build_training_report, stage_names, validation_metrics
from moe.runs.findings import read_findings
from moe.runs.reader import RunLogs, read_run, run_labels
from moe.runs.selection_metric import selection_metric_of

PAGE_FILE, JSON_FILE, CARD_FILE = "index.html", "report.json", "card.md"
COST = "cost"
ALT_TEXTS = {
    "losses": "each loss by step",
    "learning": "validation by step",
    "routing": "share of each expert by step",
    "inner": "weights of classes and polarity by step",
    "outer": "weights of sentiment and routing losses by step",
}
TEMPLATES = Path(__file__).parent / "templates"
CAPTIONS = {
    "losses": "Each loss by optimizer step. Sums (sentiment, loss) change with the weights alone: between runs that "
    "weigh otherwise, compare the single losses.",
    "learning": "Validation by step. The star marks the weights that the stage keeps.",
    "routing": "Which experts the router asks. Batches are drawn from the domains by chance, so single steps jump.",
    "inner": "Classes against polarity. λ is large where a gradient is small, w is the weight net's, c multiplies the "
    "loss. The lower row, where the stage has two epochs or more, is the mean of each epoch.",
    "outer": "Sentiment against the routing losses. What is in force is c in units of sentiment's own, held within "
    "dao.relative_bounds.",
}


def write_report(folder: Path, against: Path | None = None, out: Path | None = None) -> dict[str, Any]:
    """Write the report of a run, whole file by whole file, and give its figures and where the `page` is.

    Args:
        folder: the run's.
        against: another run, whose curves are laid beside.
        out: where to write; `report/` in the run folder by default.

    Raises:
        Fault: when a folder is no run's, or the report cannot be written.
    """
    check_extra("report")
    names = run_labels(folder, against) if against else (None, None)
    runs = [read_run(one, name) for one, name in zip((folder, against), names, strict=True) if one]
    target = out or folder / "report"
    report, found = build_training_report(runs), read_findings(runs[0])
    sections = list(build_sections(found))
    report["left_out"] += [f"{one.title}: {sentence}" for one in sections for sentence in one.missing]
    pictures = [*_drawn(runs, report), *(picture for one in sections for picture in one.pictures)]
    for picture in pictures:
        with atomic_file(target / picture.file) as temporary:
            temporary.write_bytes(picture.png)
    places = {"page": str(target / PAGE_FILE), "card": str(target / CARD_FILE)}
    report |= {"model": found.model, "made_of": found.provenance, "pictures": [one.file for one in pictures]} | places
    write_json(target / JSON_FILE, report)
    write_text(target / CARD_FILE, format_model_card(runs[0], found, sections))
    write_text(target / PAGE_FILE, _page(runs, report, pictures, sections))
    return report


def _drawn(runs: Sequence[RunLogs], report: Mapping[str, Any]) -> Iterator[ReportFigure]:
    names = stage_names(runs)
    with progress_bar("drawing", len(names) + 1, "stage") as meter:
        if png := cost_chart("seconds and memory of each stage", report["stages"]):
            yield ReportFigure(
                "",
                COST,
                "A stage's seconds hold its evaluations and checkpoints, a step's do not. " + _whose(report),
                png,
                "Bars: seconds and memory by stage.",
            )
        meter.advance()
        for name in names:
            yield from _of_stage(runs, name)
            meter.advance()


def _whose(report: Mapping[str, Any]) -> str:
    told = {"cuda": "the GPU's allocated memory", "cpu": "the resident set of the process, earlier stages included"}
    devices = {row["device"] for row in report["stages"]} & told.keys()
    return "Memory is the peak of " + " or ".join(told[one] for one in sorted(devices)) + "." if devices else ""


def _of_stage(runs: Sequence[RunLogs], name: str) -> Iterator[ReportFigure]:
    """A stage's pictures; the first run that has it is shown, the other laid beside."""
    both = {run.label: run.stages[name] for run in runs if name in run.stages}
    first = next(run for run in runs if name in run.stages)
    found = {
        "learning": validation_chart(f"{name}: validation", both),
        "losses": losses_chart(f"{name}: losses", both),
        "routing": routing_chart(f"{name}: routing", both, first.experts),
    }
    for level in LEVELS:
        title = f"{name}: {level} weights" + (f" of {first.label}" if len(runs) > 1 else "")
        found[level] = weights_chart(title, first.stages[name], level)
    for kind, png in found.items():
        if png:
            called = kind if kind not in LEVELS else f"weights-{kind}"
            yield ReportFigure(name, called, CAPTIONS[kind], png, f"Chart of {name}: {ALT_TEXTS[kind]}.")


def _page(
    runs: Sequence[RunLogs], report: Mapping[str, Any], pictures: Sequence[ReportFigure], sections: Sequence[Section]
) -> str:
    jinja2 = require("jinja2", "report")

    loader = jinja2.FileSystemLoader(TEMPLATES)
    engine = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return engine.get_template("report.html").render(
        report=report,
        title=" against ".join(run.label for run in runs),
        sections=sections,
        cost=[picture for picture in pictures if picture.name == COST],
        stage_table=_stage_table(report["stages"], len(runs) > 1),
        tables=list(_tables(runs, report)),
        stages={
            name: {
                "pictures": [picture for picture in pictures if picture.stage == name],
                "losses": _loss_table([row for row in report["losses"] if row["stage"] == name], len(runs) > 1),
            }
            for name in stage_names(runs)
        },
    )


def _stage_table(rows: Sequence[Mapping[str, Any]], several: bool) -> ReportTable:
    goal = selection_metric_of(rows)
    head = ["stage", "steps", "epochs", "kept at step", f"validation {goal.title}", "seconds", "with evaluations"]
    cells = [
        [
            row["stage"] + ("" if row["finished"] else " (not finished)"),
            str(row["steps"]),
            *_cells(row, ("epochs", ".2f"), ("kept_step", ".0f"), (goal.name, goal.format_spec), ("seconds", ",.1f")),
            *_cells(row, ("wall_seconds", ",.1f"), ("seconds_per_step", ".3f"), ("peak_mib", ",.0f")),
        ]
        for row in rows
    ]
    return _by_run(ReportTable("Stages", [*head, "s/step", "peak MiB"], cells), rows, several)


def _loss_table(rows: Sequence[Mapping[str, Any]], several: bool) -> ReportTable:
    head = ["loss", "first tenth of the steps", "last tenth"]
    cells = [[row["loss"], *_cells(row, ("first", ".4f"), ("last", ".4f"))] for row in rows]
    return _by_run(ReportTable("", head, cells), rows, several)


def _by_run(table: ReportTable, rows: Sequence[Mapping[str, Any]], several: bool) -> ReportTable:
    """The table with the run's name as second column, where there are several."""
    if not several:
        return table
    cells = [[first, row["run"], *rest] for row, (first, *rest) in zip(rows, table.rows, strict=True)]
    return ReportTable(table.title, [table.head[0], "run", *table.head[1:]], cells)


def _tables(runs: Sequence[RunLogs], report: Mapping[str, Any]) -> Iterator[ReportTable]:
    for run in runs:
        of = f" of {run.label}" if len(runs) > 1 else ""
        yield from _figures(f"Validation of the mixtures{of}", validation_metrics(run))
        yield from _figures(f"Test rows{of}", run.summary.get("figures", {}))
    if rows := report["measured"]:
        head = ["model", "rows", "routing", "accuracy", "macro-F1", "right domain"]
        cells = [
            [
                row["model"],
                *_cells(row, ("rows", ","), ("routing_mode", "")),
                *_cells(row, ("accuracy", ".3f"), ("macro_f1", ".3f"), ("right_domain", ".1%")),
            ]
            for row in rows
        ]
        yield _by_run(ReportTable("Measured last (mean over tasks)", head, cells), rows, len(runs) > 1)


def _figures(title: str, figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> Iterator[ReportTable]:
    tasks = list(dict.fromkeys(task for one in figures.values() for task in one))
    names = {"accuracy": "accuracy", "macro_f1": "macro\N{NON-BREAKING HYPHEN}F1"}
    if tasks:
        head = ["model", *(f"{task} {told}" for task in tasks for told in names.values())]
        cells = [
            [model, *(cell for task in tasks for cell in _cells(one.get(task, {}), *((n, ".3f") for n in names)))]
            for model, one in figures.items()
        ]
        yield ReportTable(title, head, cells)


def _cells(row: Mapping[str, Any], *wanted: tuple[str, str]) -> list[str]:
    return ["–" if row.get(name) is None else format(row[name], form) for name, form in wanted]
