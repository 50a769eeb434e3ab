"""The sections of a report that tell what a run came to: data, test figures, routing, honesty, parts, errors.

Each is there where the run has what it needs; else it says the command that makes it. What was found is
`moe.runs.findings`', the page around the sections `moe.report.html`'s.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moe.plots.calibration import CalibrationSeries, reliability_chart, risk_coverage_chart
from moe.plots.results import confusion_matrix_chart, heatmap_chart, label_distribution_chart
from moe.report.blocks import ReportFigure, TextExample, Section, ReportTable
from moe.runs.findings import Findings, ExpertPredictions, EvaluatedRow

MOST = 12
"""Texts that are shown of a kind."""
RELIABILITY = "On the diagonal, of answers with confidence .9 nine in ten are right; bars are 95 % intervals."
RISK = "Wrong answers among those kept, the surest first: how much is gained by not answering the others."


def build_sections(found: Findings) -> Iterator[Section]:
    """Every section, in the order of the page."""
    language = bool(found.card.get("language"))
    yield _data(found)
    if language:
        yield _questions(found)
    else:
        for make in (_figures, _routing, _confusion, _honesty):
            yield make(found)
    yield _parts(found)
    if not language:
        yield _errors(found)
        yield _voices(found)
    yield Section(
        "What it is made of",
        tables=[ReportTable("", ["", "version or SHA-256"], list(found.provenance.items()), ("version or SHA-256",))],
    )


def _without(found: Findings, title: str) -> Section:
    of = f"{found.model} is" if found.model else "no mixture is there yet, so none is"
    return Section(title, missing=[f"{of} not measured on test rows: moe evaluate does it."])


def _data(found: Findings) -> Section:
    if not found.data:
        return Section("Data", missing=["no prepared rows in the run folder: training makes them."])
    head = ["task", "rows", "train", "validation", "test", "rejected", "duplicates", "near duplicates taken out"]
    rows = [[str(one.get("task", "")), *_counts(one)] for one in found.data]
    note = "Rejected rows stand in rejected.csv beside the prepared ones, each with its reason."
    charts = _pictures(
        "data-labels",
        label_distribution_chart(found.data),
        "Shares of each label; rows in brackets.",
        "Bars: label shares by split.",
    )
    return Section("Data", note, [ReportTable("Rows of each task", head, rows)], charts)


def _counts(one: Mapping[str, Any]) -> list[str]:
    parts = [one.get("splits", {}).get(split, {}).get("rows", 0) for split in ("train", "validation", "test")]
    near = sum(one.get("near_duplicates", {}).values())
    figures = [one.get("rows", 0), *parts, one.get("rejected", 0), one.get("duplicates", 0), near]
    return [f"{figure:,}" for figure in figures]


def _figures(found: Findings) -> Section:
    if "tasks" not in found.report:
        return _without(found, "Test figures")
    head = ["task", "rows", "accuracy", "95 %", "macro-F1", "95 %", "polarity MSE"]
    rows = [
        [task, f"{one['rows']:,}", *_sure(one), _figure(found.report["scores"].get(task, {}).get("mse"))]
        for task, one in found.report["tasks"].items()
    ]
    if mean := found.report.get("mean"):
        rows.append(["mean", f"{found.report['rows']:,}", *_sure(mean), ""])
    note = "Labels of the row's own task. Intervals say how much hangs on these test rows."
    return Section("Test figures", note, [ReportTable(f"{found.model}, {found.report['routing_mode']} routing", head, rows)])


def _sure(one: Mapping[str, Any]) -> list[str]:
    return [cell for name in ("accuracy", "macro_f1") for cell in (_figure(one.get(name)), _ends(one, name))]


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ends(one: Mapping[str, Any], name: str) -> str:
    ends = one.get(f"{name}_interval")
    return f"{ends[0]:.3f}–{ends[1]:.3f}" if ends else "–"


def _questions(found: Findings) -> Section:
    if not found.questions.get("tasks"):
        return Section("Questions", missing=["no questions were asked: moe evaluate --config FILE does it."])
    head = ["task", "questions", "accuracy", "95 %", "macro-F1", "missing"]
    rows = [
        [task, f"{one.get('questions', one.get('rows', 0)):,}", _figure(one.get("accuracy")), _ends(one, "accuracy")]
        + [_figure(one.get(name)) for name in ("macro_f1", "missing")]
        for task, one in found.questions["tasks"].items()
    ]
    return Section("Questions", tables=[ReportTable(f"{found.model}", head, rows)])


def _routing(found: Findings) -> Section:
    routing = found.routing
    if not routing.get("table"):
        return _without(found, "Routing")
    experts = list(dict.fromkeys(name for shares in routing["table"].values() for name in shares))
    cells = [[d, *(f"{shares.get(e, 0.0):.1%}" for e in experts)] for d, shares in routing["table"].items()]
    note = (
        f"The right domain for {routing['accuracy']:.1%} of test rows; mean routing entropy {routing['entropy']:.3f}, "
    )
    note += "where 0 is one expert a text and 1 all alike."
    if routing.get("collapsed"):
        note += f" Hardly ever asked: {', '.join(routing['collapsed'])}."
    drawn = heatmap_chart("mean share of each expert", routing["table"], "texts of", "expert")
    charts = _pictures("test-routing", drawn, "Each row sums to 100 %.", "Heat map: mean share by domain and expert.")
    return Section(
        "Routing",
        note,
        [ReportTable("Routing of test rows: mean share of each expert", ["texts of", *experts], cells)],
        charts,
    )


def _confusion(found: Findings) -> Section:
    if "tasks" not in found.report:
        return _without(found, "Confusion")
    drawn = confusion_matrix_chart(found.report["tasks"])
    caption = "Rows are the labels, columns what was said; figures are counts, the colour is the share of the row."
    tables = [_by_class(task, one) for task, one in found.report["tasks"].items() if "per_class" in one]
    return Section("Confusion", "", tables, _pictures("test-confusion", drawn, caption, "Heat maps: label by answer."))


def _by_class(task: str, one: Mapping[str, Any]) -> ReportTable:
    names, counts = one["confusion"]["labels"], one["confusion"]["rows"]
    head = ["label", "precision", "recall", "F1", "rows", *(f"→ {name}" for name in names)]
    rows = [
        [
            name,
            *(_figure(one["per_class"][name][key]) for key in ("precision", "recall", "f1")),
            str(int(sum(counts[i]))),
        ]
        + [str(count) for count in counts[i][: len(names)]]
        for i, name in enumerate(names)
    ]
    return ReportTable(f"{task}: by class", head, rows)


def _honesty(found: Findings) -> Section:
    """Reliability and risk–coverage: what `moe calibrate` drew, else of the test rows as they were answered."""
    title = "Reliability, risk and coverage"
    if not found.rows:
        return _without(found, title)
    charts = [
        one
        for name, drawn, caption, alt in (
            ("reliability", _reliability, RELIABILITY, "Chart: share right by confidence, a panel a task."),
            ("risk_coverage", _risk, RISK, "Chart: share wrong by share kept, a panel a task."),
        )
        for one in _pictures(f"test-{name}", _calibrated(found.folder, name) or drawn(found.rows), caption, alt)
    ]
    if not found.calibration:
        missing = [f"{found.model} is not calibrated: moe calibrate fits a temperature, and draws before and after."]
        return Section(title, pictures=charts, missing=missing)
    head = ["task", "T", "rows of", "ECE before", "after", "Brier before", "after", "log loss before", "after"]
    rows = [
        [task, f"{one['temperature']:.2f}", split]
        + [_figure(one[split][side][name]) for name in ("ece", "brier", "log_loss") for side in ("before", "after")]
        for task, one in found.calibration.get("tasks", {}).items()
        for split in ("validation", "test")
        if split in one
    ]
    return Section(title, "", [ReportTable("Calibration", head, rows, ("rows of",))], charts)


def _calibrated(folder: Path, name: str) -> bytes | None:
    path = folder / f"{name}.png"
    return path.read_bytes() if path.is_file() else None


def _reliability(rows: Sequence[EvaluatedRow]) -> bytes:
    return reliability_chart("test", {task: {"as answered": one["test"]} for task, one in _series(rows).items()})


def _risk(rows: Sequence[EvaluatedRow]) -> bytes:
    return risk_coverage_chart(_series(rows))


def _series(rows: Sequence[EvaluatedRow]) -> dict[str, CalibrationSeries]:
    tasks = {task: [one for one in rows if one.task == task] for task in dict.fromkeys(one.task for one in rows)}
    return {
        task: {"test": (np.array([one.confidence for one in some]), np.array([one.correct for one in some]))}
        for task, some in tasks.items()
    }


def _parts(found: Findings) -> Section:
    title = "Ablations"
    if not found.ablation.get("rows"):
        return Section(
            title, missing=["what each expert and the router are worth was not measured: moe ablate does it."]
        )
    head = ["row", "accuracy", "macro-F1", "accuracy against full, points", "95 %", "shows"]
    rows = [[one["name"], *_against(one), one.get("says", "")] for one in found.ablation["rows"]]
    chart = found.folder.parent.parent / "ablation" / "ablation.png"
    drawn = chart.read_bytes() if chart.is_file() else None
    caption = "The difference from the full mixture; an interval that holds 0 shows none."
    tables = [ReportTable(f"{found.ablation.get('texts', '')} test texts", head, rows, ("shows",))]
    return Section(title, "", tables, _pictures("ablation", drawn, caption, "Bars: what each part is worth."))


def _against(one: Mapping[str, Any]) -> list[str]:
    mean, gap = one.get("mean") or {}, one.get("difference")
    cells = [_figure(mean.get("accuracy")), _figure(mean.get("macro_f1"))]
    if not gap:
        return [*cells, "", ""]
    low, high = gap["accuracy_interval"]
    return [*cells, f"{100 * gap['accuracy']:+.1f}", f"{100 * low:+.1f} to {100 * high:+.1f}"]


def _errors(found: Findings) -> Section:
    title = "Most confident mistakes"
    if not found.rows:
        return _without(found, title)
    wrong = sorted((one for one in found.rows if not one.correct), key=lambda one: -one.confidence)
    note = f"{len(wrong):,} of {len(found.rows):,} labelled test rows are wrong; these {min(MOST, len(wrong))} were "
    note += "the surest. Some are the label's mistake, not the model's."
    return Section(title, note, quotes=[TextExample(one.text, _said(one)) for one in wrong[:MOST]])


def _said(one: EvaluatedRow) -> list[str]:
    verdict = "right" if one.correct else f"label {one.label}"
    return [f"said {one.predicted}, {one.confidence:.3f}", verdict, f"task {one.task}"]


def _voices(found: Findings) -> Section:
    title = "Where the experts disagree"
    if not found.expert_predictions:
        return Section(title, missing=["the experts were not asked one by one: moe evaluate --alone does it."])
    apart = [one for one in found.expert_predictions if one.distinct_labels > 1]
    names = list(found.expert_predictions[0].experts)
    table = {task: _worth([one for one in found.expert_predictions if one.row.task == task], names) for task in _tasks(found.expert_predictions)}
    share = len(apart) / len(found.expert_predictions)
    note = f"On {share:.1%} of {len(found.expert_predictions):,} labelled test rows not all experts say the same."
    drawn = heatmap_chart("accuracy of each expert alone", table, "texts of", "expert")
    caption = "Each expert with all gates on it; the row's own expert should be the best of its row."
    charts = _pictures("test-experts", drawn, caption, "Heat map: accuracy by task and expert.")
    head = ["texts of", "mixture", *names]
    rows = [
        [task, _figure(float(np.mean([one.row.correct for one in found.expert_predictions if one.row.task == task])))]
        + [_figure(shares[name]) for name in names]
        for task, shares in table.items()
    ]
    shown = sorted(apart, key=lambda one: (-one.distinct_labels, one.row.confidence))[:MOST]
    quotes = [TextExample(one.row.text, [*_said(one.row), *_each(one)]) for one in shown]
    return Section(title, note, [ReportTable("Accuracy, expert by expert", head, rows)], charts, quotes)


def _tasks(rows: Sequence[ExpertPredictions]) -> list[str]:
    return list(dict.fromkeys(one.row.task for one in rows))


def _worth(rows: Sequence[ExpertPredictions], names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.mean([one.experts[name][0] == one.row.label for one in rows])) for name in names}


def _each(one: ExpertPredictions) -> list[str]:
    return [f"{name}: {label} {probability:.2f}" for name, (label, probability) in one.experts.items()]


def _pictures(name: str, png: bytes | None, caption: str, alt: str) -> list[ReportFigure]:
    return [ReportFigure("", name, caption, png, alt)] if png else []
