"""The files of a run's report: plots, `report.json`, a self-contained HTML page and a model card."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

from experts.atomic_io import atomic_file, write_json, write_text
from experts.locks import output_lock, run_lock
from experts.outputs import check_output_names
from moe.console import progress_bar
from moe.plots.colours import DomainColours
from moe.plots.curves import LEVELS
from moe.plots.training import cost_chart, losses_chart, routing_chart, validation_chart, weights_chart
from moe.report.blocks import ReportFigure, ReportTable, Section, add_run_column, format_cells
from moe.report.conclusions import describe_never_predicted
from moe.report.model_card import format_model_card
from moe.report.model_tables import model_tables
from moe.report.pages import render_page
from moe.report.sections import build_sections
from moe.report.training import build_training_report, stage_names
from moe.results.training import LossRow, RunReport, StageRow
from moe.runs.findings import read_findings
from moe.runs.layout import REPORT
from moe.runs.reader import RunLogs, read_run, run_labels
from moe.runs.selection_metric import selection_title, selection_value

PAGE_FILE, JSON_FILE, CARD_FILE = "index.html", "report.json", "card.md"
COST = "cost"
ALT_TEXTS = {
    "losses": "each loss by step",
    "learning": "validation metrics by step",
    "routing": "mean routing weight of each expert by step",
    "inner": "weights of the classification and polarity losses by step",
    "outer": "weights of the sentiment and routing losses by step",
}
CAPTIONS = {
    "losses": "Each loss by optimizer step. The sums (sentiment, loss) also change with the loss weights: between runs "
    "with different weights, compare the individual losses.",
    "learning": "Validation metrics by step. The star marks the selected weights. Horizontal lines are baselines on "
    "the same rows: the majority class, and TF-IDF with logistic regression.",
    "routing": "Mean routing weight of each expert. Batches are sampled from the domains at random, so steps vary.",
    "inner": "Weights of the classification and polarity losses. λ is large where a gradient is small, w is the output "
    "of the weight network, c is the factor of the loss. The lower row (stages of at least two epochs) shows the mean "
    "of each epoch.",
    "outer": "Weights of the sentiment loss and the routing losses. The applied factor is c in units of the sentiment "
    "loss's own factor, clipped to dao.relative_bounds.",
}


def write_report(
    folder: Path, against: Path | None = None, out: Path | None = None, overwrite: bool = False
) -> RunReport:
    """Write the report of a run, each file atomically.

    Args:
        folder: folder of the run.
        against: folder of another run, whose training curves are overlaid.
        out: output folder; `report/` in the run folder by default.
        overwrite: replace files of these names in `out`; in `report/` they are always replaced.

    Returns:
        the content of `report.json`.

    Raises:
        Fault: if a folder is not a run's, the report cannot be written, `out` has a file of one of its names and
            `overwrite` is false, or another process writes in the run's folder, or in `out`.
    """
    if out is not None:
        check_output_names(out, (PAGE_FILE, JSON_FILE, CARD_FILE), (), overwrite)
    lock = output_lock(out) if out is not None else run_lock(folder) if folder.is_dir() else nullcontext()
    with lock:
        return _write_report(folder, against, out, overwrite)


def _write_report(folder: Path, against: Path | None, out: Path | None, overwrite: bool) -> RunReport:
    labels = run_labels(folder, against) if against else (None, None)
    runs = [read_run(path, label) for path, label in zip((folder, against), labels, strict=True) if path]
    target = out or folder / REPORT
    training, findings = build_training_report(runs), read_findings(runs[0])
    sections = list(build_sections(findings))
    missing = [f"{section.title}: {sentence}" for section in sections for sentence in section.missing]
    figures = [
        *_training_figures(runs, training.stages),
        *(figure for section in sections for figure in section.figures),
    ]
    if out is not None:
        check_output_names(out, [figure.file_name for figure in figures], (), overwrite)
    for figure in figures:
        with atomic_file(target / figure.file_name) as temporary:
            temporary.write_bytes(figure.png)
    report = RunReport(
        **dict(training.model_copy(update={"left_out": [*training.left_out, *missing]})),
        model=findings.model,
        never_predicted=describe_never_predicted(findings.report.tasks if findings.report else {}),
        made_of=findings.provenance,
        pictures=[figure.file_name for figure in figures],
        page=str(target / PAGE_FILE),
        card=str(target / CARD_FILE),
    )
    write_json(target / JSON_FILE, report)
    write_text(target / CARD_FILE, format_model_card(runs[0], findings, sections))
    write_text(target / PAGE_FILE, _render_page(runs, report, figures, sections))
    return report


def _training_figures(runs: Sequence[RunLogs], stages: Sequence[StageRow]) -> Iterator[ReportFigure]:
    names, colours = stage_names(runs), DomainColours(runs[0].domains)
    with progress_bar("plotting", len(names) + 1, "stage") as meter:
        if png := cost_chart("time and memory of each stage", stages, colours):
            caption = (
                "The time of a stage includes its evaluations and checkpoints, the time of a step does not. "
                + _memory_note(stages)
            )
            yield ReportFigure("", COST, caption, png, "Bar chart: time and memory by stage.")
        meter.advance()
        for name in names:
            yield from _stage_figures(runs, name, colours)
            meter.advance()


def _memory_note(stages: Sequence[StageRow]) -> str:
    """Name the memory that was measured on the devices of the stages."""
    kinds = {
        ("cuda", "stage"): "the GPU memory allocated in the stage",
        ("cpu", "stage"): "the resident set size of the process in the stage",
        ("cpu", "process"): "the resident set size of the process so far, including earlier stages",
    }
    measured = {(row.device, row.memory_of) for row in stages}
    named = [kind for key, kind in kinds.items() if key in measured]
    return f"Memory is the peak of {' or '.join(named)}." if named else ""


def _stage_figures(runs: Sequence[RunLogs], name: str, colours: DomainColours) -> Iterator[ReportFigure]:
    """Yield the plots of a stage: of the first run that has it, with the other run's curves overlaid."""
    logs = {run.label: run.stages[name] for run in runs if name in run.stages}
    first = next(run for run in runs if name in run.stages)
    charts = {
        "learning": validation_chart(f"{name}: validation", logs, first.levels, colours),
        "losses": losses_chart(f"{name}: losses", logs),
        "routing": routing_chart(f"{name}: routing", logs, first.experts, colours),
    }
    for level in LEVELS:
        title = f"{name}: {level} weights" + (f" of {first.label}" if len(runs) > 1 else "")
        charts[level] = weights_chart(title, first.stages[name], level)
    for kind, png in charts.items():
        if png:
            figure_name = kind if kind not in LEVELS else f"weights-{kind}"
            yield ReportFigure(name, figure_name, CAPTIONS[kind], png, f"Chart of {name}: {ALT_TEXTS[kind]}.")


def _render_page(
    runs: Sequence[RunLogs], report: RunReport, figures: Sequence[ReportFigure], sections: Sequence[Section]
) -> str:
    several, colours = len(runs) > 1, DomainColours(runs[0].domains)
    return render_page(
        "report.html",
        report=report,
        title=" against ".join(run.label for run in runs),
        sections=sections,
        domain_colours={domain.name: colours.colour(domain.name) for domain in runs[0].domains},
        cost_figures=[figure for figure in figures if figure.name == COST],
        stage_table=_stage_table(report.stages, several),
        model_tables=[table for table in model_tables(runs, report) if table.rows],
        stages={
            name: {
                "figures": [figure for figure in figures if figure.stage == name],
                "losses": _loss_table([row for row in report.losses if row.stage == name], several),
            }
            for name in stage_names(runs)
        },
    )


def _stage_table(rows: Sequence[StageRow], several: bool) -> ReportTable:
    header = [
        "stage",
        "steps",
        "epochs",
        "best step",
        f"validation {selection_title(rows)}",
        "seconds",
        "with evaluations",
    ]
    cells = [
        [
            row.stage + ("" if row.finished else " (not finished)"),
            str(row.steps),
            *format_cells((row.epochs, ".2f"), (row.kept_step, ".0f")),
            *format_cells(selection_value(row)),
            *format_cells((row.seconds, ",.1f"), (row.wall_seconds, ",.1f")),
            *format_cells((row.seconds_per_step, ".3f"), (row.peak_mib, ",.0f")),
        ]
        for row in rows
    ]
    return add_run_column(ReportTable("Stages", [*header, "s/step", "peak MiB"], cells), rows, several)


def _loss_table(rows: Sequence[LossRow], several: bool) -> ReportTable:
    header = ["loss", "first 10 % of steps", "last 10 %"]
    cells = [[row.loss, *format_cells((row.first, ".4f"), (row.last, ".4f"))] for row in rows]
    return add_run_column(ReportTable("Mean loss", header, cells), rows, several)
