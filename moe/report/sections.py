"""Sections of a run's report: data, test metrics, routing, confusion matrices, calibration, ablations, errors.

A section whose results are missing names the command that creates them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from moe.plots.calibration import CalibrationSeries, reliability_chart, risk_coverage_chart
from moe.plots.results import confusion_matrix_chart, heatmap_chart
from moe.report.abstention import abstention_tables
from moe.report.blocks import (
    MAX_CLASS_COLUMNS,
    MAX_COLUMNS,
    MAX_NARROW_COLUMNS,
    ReportTable,
    Section,
    TextExample,
    number_columns,
    optional_figure,
    split_table,
)
from moe.report.column_blocks import SMALL_WEIGHT
from moe.report.conclusions import describe_never_predicted, describe_sets
from moe.report.data_rows import data_section
from moe.report.label_sets import label_set_table
from moe.report.model_tables import scores_tables
from moe.results.ablation import VariantRow
from moe.results.metrics import LabelMetrics, MetricFields
from moe.runs.findings import EvaluatedRow, ExpertPredictions, Findings
from moe.runs.layout import ABLATION, ABLATION_CHART

TEST_METRICS, QUESTIONS, ROUTING = "Test metrics", "Question answering", "Routing"
CONFUSION, CALIBRATION, ABLATIONS = "Confusion matrix", "Calibration", "Ablations"
ERRORS, DISAGREEMENT, PROVENANCE = "Most confident errors", "Disagreement between experts", "Versions and hashes"
MAX_EXAMPLES = 12
"""Maximum number of texts in a section."""
RELIABILITY_CAPTION = (
    "Accuracy by confidence. On the diagonal, confidence is calibrated: of predictions with confidence .9, nine in ten "
    "are correct. Bars are 95 % intervals."
)
RISK_CAPTION = "Error rate of the most confident predictions by coverage: what abstaining on all others would gain."


def build_sections(findings: Findings) -> Iterator[Section]:
    """Yield all sections in the order of the page."""
    language = bool(findings.card.get("language"))
    yield data_section(findings)
    if language:
        yield _questions(findings)
    else:
        for build in (_test_metrics, _routing, _confusion, _calibration):
            yield build(findings)
    yield _ablations(findings)
    if not language:
        yield _errors(findings)
        yield _disagreement(findings)
    provenance = ReportTable(
        "", ["", "version or SHA-256"], list(findings.provenance.items()), text_columns=("version or SHA-256",)
    )
    yield Section(PROVENANCE, tables=[provenance])


def _not_evaluated(findings: Findings, title: str) -> Section:
    subject = f"{findings.model} was" if findings.model else "there is no mixture yet, so none was"
    return Section(title, missing=[f"{subject} not evaluated on test rows; run moe evaluate."])


def _test_metrics(findings: Findings) -> Section:
    if (report := findings.report) is None:
        return _not_evaluated(findings, TEST_METRICS)
    header = ["task", "rows", "accuracy", "95 % interval", "macro-F1", "95 % interval", "polarity MSE"]
    rows = [
        [
            task,
            f"{metrics.rows:,}",
            *_metrics_with_intervals(metrics),
            _format_metric(report.scores[task].mse if task in report.scores else None),
        ]
        for task, metrics in report.tasks.items()
    ]
    if report.mean is not None:
        rows.append(["mean", f"{report.rows:,}", *_metrics_with_intervals(report.mean), ""])
    note = (
        "Each text is classified into the labels of its own task. Intervals cover the sampling of the test rows only."
    )
    title = f"{findings.model}, {report.routing_mode} routing"
    tables = [ReportTable(title, header, rows)] if rows else []
    alone = {task: its for task, its in report.scores.items() if task not in report.tasks}
    return Section(TEST_METRICS, note, [*tables, *scores_tables(f"{title}: scores alone", alone)])


def _metrics_with_intervals(metrics: MetricFields) -> list[str]:
    return [
        cell
        for name in ("accuracy", "macro_f1")
        for cell in (_format_metric(metrics.value(name)), _format_interval(metrics.interval(name)))
    ]


def _format_metric(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _format_interval(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3f}–{interval[1]:.3f}" if interval else "–"


def _questions(findings: Findings) -> Section:
    if not findings.questions.get("tasks"):
        return Section(QUESTIONS, missing=["no questions were evaluated; run moe evaluate --config FILE."])
    header = ["task", "questions", "accuracy", "95 % interval", "macro-F1", "missing"]
    rows = [
        [
            task,
            f"{metrics.get('questions', metrics.get('rows', 0)):,}",
            _format_metric(metrics.get("accuracy")),
            _format_interval(metrics.get("accuracy_interval")),
            _format_metric(metrics.get("macro_f1")),
            _format_metric(metrics.get("missing")),
        ]
        for task, metrics in findings.questions["tasks"].items()
    ]
    return Section(QUESTIONS, tables=[ReportTable(f"{findings.model}", header, rows)])


def _routing(findings: Findings) -> Section:
    routing = findings.routing
    if routing is None or not routing.table:
        return _not_evaluated(findings, ROUTING)
    experts = list(dict.fromkeys(name for weights in routing.table.values() for name in weights))
    cells = [
        [domain, *(_format_weight(weights.get(expert, 0.0), len(experts)) for expert in experts)]
        for domain, weights in routing.table.items()
    ]
    note = (
        f"{routing.accuracy:.1%} of the test rows are routed to their own domain. The mean routing entropy is "
        f"{routing.entropy:.3f}, between 0 (one expert per text) and 1 (equal weights)."
    )
    if routing.collapsed:
        note += f" Hardly used: {', '.join(routing.collapsed)}."
    figures = optional_figure(
        "test-routing",
        heatmap_chart("mean routing weight of each expert", routing.table, "texts of", "expert"),
        "Each row sums to 100 %.",
        "Heat map: mean routing weight by domain and expert.",
    )
    table = ReportTable("Mean routing weight of each expert on test rows, %", ["texts of", *experts], cells)
    tables = list(split_table(number_columns(table, fixed=1), 1, MAX_NARROW_COLUMNS))
    return Section(ROUTING, note, tables, figures)


def _format_weight(weight: float, experts: int) -> str:
    return "·" if weight < SMALL_WEIGHT else f"{100 * weight:.0f}" if experts > MAX_COLUMNS else f"{100 * weight:.1f}"


def _confusion(findings: Findings) -> Section:
    if findings.report is None:
        return _not_evaluated(findings, CONFUSION)
    tasks = findings.report.tasks
    figures = optional_figure(
        "test-confusion",
        confusion_matrix_chart({task: its.confusion for task, its in tasks.items() if its.confusion is not None}),
        "Rows are true labels, columns predicted labels. Cells show counts; the colour is the share of the row.",
        "Heat maps: true label by predicted label.",
    )
    tables = [
        part
        for task, metrics in tasks.items()
        for part in split_table(_class_table(task, metrics), 1, MAX_CLASS_COLUMNS)
    ]
    never = describe_never_predicted(tasks)
    return Section(CONFUSION, f"{never[:1].upper()}{never[1:]}." if never else "", tables, figures)


def _class_table(task: str, metrics: LabelMetrics) -> ReportTable:
    matrix = metrics.confusion
    predicted = [] if matrix is None else matrix.labels
    header = ["label", "precision", "recall", "F1", "rows", *(f"→ {label}" for label in predicted)]
    rows = [
        [
            label,
            *(_format_metric(value) for value in (its.precision, its.recall, its.f1)),
            str(int(its.support)),
            *(str(count) for count in ([] if matrix is None else matrix.rows[i][: len(predicted)])),
        ]
        for i, (label, its) in enumerate(metrics.per_class.items())
    ]
    if matrix is not None:
        kappa = metrics.quadratic_kappa
        agreement = "" if kappa is None else f"; quadratic-weighted kappa {kappa:.3f}"
        return ReportTable(f"{task}: metrics by class{agreement}", header, rows)
    return ReportTable(f"{task}: metrics by label; {describe_sets(metrics)}", header, rows)


def _calibration(findings: Findings) -> Section:
    """Reliability and risk–coverage: the charts of `moe calibrate`, else those of the evaluated test rows."""
    if not findings.rows:
        return _not_evaluated(findings, CALIBRATION)
    reliability = _saved_chart(findings.folder, "reliability") or reliability_chart(
        "test", {task: {"as predicted": series["test"]} for task, series in _confidence_series(findings.rows).items()}
    )
    risk = _saved_chart(findings.folder, "risk_coverage") or risk_coverage_chart(_confidence_series(findings.rows))
    figures = [
        *optional_figure(
            "test-reliability", reliability, RELIABILITY_CAPTION, "Chart: accuracy by confidence, one panel per task."
        ),
        *optional_figure(
            "test-risk_coverage", risk, RISK_CAPTION, "Chart: error rate by coverage, one panel per task."
        ),
    ]
    if findings.calibration is None:
        missing = [f"{findings.model} is not calibrated; moe calibrate fits a temperature and plots before and after."]
        return Section(CALIBRATION, figures=figures, missing=missing)
    header = ["task", "T", "split", "ECE before", "after", "Brier before", "after", "log loss before", "after"]
    rows = [
        [task, f"{calibration.temperature:.2f}", split]
        + [
            _format_metric(value)
            for pair in (
                (its.before.ece, its.after.ece),
                (its.before.brier, its.after.brier),
                (its.before.log_loss, its.after.log_loss),
            )
            for value in pair
        ]
        for task, calibration in findings.calibration.tasks.items()
        for split, its in calibration.splits().items()
    ]
    table = ReportTable("Temperature scaling", header, rows, text_columns=("split",))
    sets = findings.calibration.label_sets
    tables = [table, *abstention_tables(findings.calibration), *([label_set_table(sets)] if sets else [])]
    return Section(CALIBRATION, "", tables, figures)


def _saved_chart(folder: Path, name: str) -> bytes | None:
    path = folder / f"{name}.png"
    return path.read_bytes() if path.is_file() else None


def _confidence_series(rows: Sequence[EvaluatedRow]) -> dict[str, CalibrationSeries]:
    by_task: dict[str, list[EvaluatedRow]] = {}
    for row in rows:
        by_task.setdefault(row.task, []).append(row)
    return {
        task: {"test": (np.array([row.confidence for row in own]), np.array([row.correct for row in own]))}
        for task, own in by_task.items()
    }


def _ablations(findings: Findings) -> Section:
    if (ablation := findings.ablation) is None:
        missing = ["the contribution of the experts and the router was not measured; run moe ablate."]
        return Section(ABLATIONS, missing=missing)
    header = ["variant", "accuracy", "macro-F1", "accuracy − full, points", "95 % interval", "description"]
    rows = [[row.name, *_ablation_cells(row), row.description] for row in ablation.rows]
    chart = findings.folder.parent.parent / ABLATION / ABLATION_CHART
    figures = optional_figure(
        "ablation",
        chart.read_bytes() if chart.is_file() else None,
        "Difference from the full mixture. If an interval contains 0, the variant shows no difference.",
        "Bar chart: difference of each variant from the full mixture.",
    )
    table = ReportTable(f"{ablation.texts} test texts", header, rows, text_columns=("description",))
    return Section(ABLATIONS, "", [table], figures)


def _ablation_cells(row: VariantRow) -> list[str]:
    mean, difference = row.mean, row.difference
    cells = ["–", "–"] if mean is None else [_format_metric(mean.accuracy), _format_metric(mean.macro_f1)]
    if difference is None:
        return [*cells, "", ""]
    low, high = difference.accuracy_interval
    return [*cells, f"{100 * difference.accuracy:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]


def _errors(findings: Findings) -> Section:
    if findings.report is not None and not findings.report.tasks:
        return Section(ERRORS, missing=["no test row has a label."])
    if not findings.rows:
        return _not_evaluated(findings, ERRORS)
    wrong = sorted((row for row in findings.rows if not row.correct), key=lambda row: -row.confidence)
    note = (
        f"{len(wrong):,} of {len(findings.rows):,} labelled test rows are misclassified; these are the "
        f"{min(MAX_EXAMPLES, len(wrong))} with the highest confidence. Some are errors of the label, not of the model."
    )
    return Section(ERRORS, note, examples=[TextExample(row.text, _annotations(row)) for row in wrong[:MAX_EXAMPLES]])


def _annotations(row: EvaluatedRow) -> list[str]:
    label = "correct" if row.correct else f"label {row.label}"
    return [f"predicted {row.predicted}, {row.confidence:.3f}", label, f"task {row.task}"]


def _disagreement(findings: Findings) -> Section:
    predictions = findings.expert_predictions
    if not predictions:
        missing = ["the experts were not evaluated one by one; run moe evaluate --per-expert."]
        return Section(DISAGREEMENT, missing=missing)
    experts = list(predictions[0].experts)
    tasks: dict[str, list[ExpertPredictions]] = {}
    for prediction in predictions:
        tasks.setdefault(prediction.row.task, []).append(prediction)
    accuracies = {task: _expert_accuracies(own, experts) for task, own in tasks.items()}
    differing = [prediction for prediction in predictions if prediction.distinct_labels > 1]
    note = (
        f"On {len(differing) / len(predictions):.1%} of {len(predictions):,} labelled test rows the experts disagree."
    )
    figures = optional_figure(
        "test-experts",
        heatmap_chart("accuracy of each expert on its own", accuracies, "texts of", "expert"),
        "Each expert with a routing weight of 1; the expert of a row's own domain should be the best in its row.",
        "Heat map: accuracy by task and expert.",
    )
    rows = [
        [task, _format_metric(float(np.mean([prediction.row.correct for prediction in own])))]
        + [_format_metric(accuracies[task][expert]) for expert in experts]
        for task, own in tasks.items()
    ]
    title = "Accuracy of the mixture and of each expert"
    table = number_columns(ReportTable(title, ["texts of", "mixture", *experts], rows), fixed=2)
    tables = list(split_table(table, 2, MAX_NARROW_COLUMNS))
    selected = sorted(differing, key=lambda prediction: (-prediction.distinct_labels, prediction.row.confidence))
    examples = [
        TextExample(prediction.row.text, [*_annotations(prediction.row), *_expert_annotations(prediction)])
        for prediction in selected[:MAX_EXAMPLES]
    ]
    return Section(DISAGREEMENT, note, tables, figures, examples)


def _expert_accuracies(predictions: Sequence[ExpertPredictions], experts: Sequence[str]) -> dict[str, float]:
    return {
        expert: float(np.mean([prediction.experts[expert][0] == prediction.row.label for prediction in predictions]))
        for expert in experts
    }


def _expert_annotations(prediction: ExpertPredictions) -> list[str]:
    return [f"{expert}: {label} {probability:.2f}" for expert, (label, probability) in prediction.experts.items()]
