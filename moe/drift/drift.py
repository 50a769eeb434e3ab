"""`moe drift`: does a file differ from what a model was trained on, and since which month."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import write_json
from experts.errors import Fault, suggest
from moe.console import Table, info
from moe.drift.comparison import ALARM, MEASURES, UNLIKE, DriftComparison, DriftTest, average_features, compare_features
from moe.drift.fit import MIN_ROWS, extract_features
from moe.drift.reference import DriftFeatures, Reference, read_reference
from moe.drift.timeline import read_dated_texts
from moe.extras import check_extra
from moe.inference.load_mixture import load_mixture
from moe.inference.text_io import TextSource
from moe.inference.torch_predictor import TorchPredictor
from moe.plots.calibration import GREY
from moe.plots.style import BLUE, RED, label_panel, save_figure, square_panels
from moe.runs.model_ref import resolve


@dataclass(frozen=True)
class ValidationSummary:
    """The validation rows that a file is compared with.

    Args:
        domain: the only domain that they come from; None for all.
        rows: their number.
        shares, confidence, distance: averages, as in `DriftComparison`.
    """

    domain: str | None
    rows: int
    shares: Mapping[str, float] | None
    confidence: float | None
    distance: float | None


@dataclass(frozen=True)
class DriftReport:
    """Comparison of a file with a model's validation rows.

    Args:
        model: the model's folder.
        file: the file.
        rejected: rows without a readable text.
        undated: rows without a readable date; None if the file has no dates.
        unreadable_date: the first date that cannot be parsed; None without any.
        compared_with: the validation rows.
        alarm: false alarm rate of a verdict.
        whole: comparison of all rows of the file.
        months: comparison of the rows of each month; empty if the file has no dates.
    """

    model: str
    file: str
    rejected: int
    undated: int | None
    unreadable_date: str | None
    compared_with: ValidationSummary
    alarm: float
    whole: DriftComparison
    months: Mapping[str, DriftComparison]


def drift(
    folder: Path,
    source: TextSource,
    target: Path,
    *,
    date_column: str | None = None,
    date_format: str | None = None,
    domain: str | None = None,
    sets: Sequence[str] = (),
    quiet: bool = True,
) -> DriftReport:
    """Compare a file with a model's drift reference, in total and by month, and write `drift.json` and `drift.png`.

    Args:
        folder: the model.
        source: the file: csv, jsonl, parquet, txt or a `datasets` folder.
        target: folder of the results.
        date_column: see `read_dated_texts`.
        date_format: see `read_dated_texts`.
        domain: compare with the validation rows of this domain only; None compares with those of all domains.
        sets: `backbone.KEY=VALUE` overrides of the model's backbone settings.
        quiet: show no progress bar.

    Raises:
        Fault: if the model, its reference or the file cannot be read, or a column is missing.
    """
    check_extra("report")  # the charts are drawn last
    reference = read_reference(folder)
    validation = _validation_features(reference, domain)
    dated = read_dated_texts(source, date_column=date_column, date_format=date_format)
    model, template, length = load_mixture(resolve(folder), sets)
    predictor = TorchPredictor(model, template, length, states=True)
    features = extract_features(predictor, reference.space, dated.texts, source.required_file.name, quiet)
    months = np.array([month or "" for month in dated.months])
    by_month = {name: features.select(months == name) for name in sorted(set(months) - {""})} if dated.dated else {}
    averages = average_features(validation, reference.experts)
    report = DriftReport(
        model=str(folder),
        file=str(source.file),
        rejected=dated.rejected,
        undated=int((months == "").sum()) if dated.dated else None,
        unreadable_date=dated.unreadable,
        compared_with=ValidationSummary(domain=domain, rows=len(validation), **averages),
        alarm=ALARM,
        whole=compare_features(features, validation, reference.experts),
        months={name: compare_features(part, validation, reference.experts) for name, part in by_month.items()},
    )
    write_json(target / "drift.json", report)
    plot_drift(target / "drift.png", report, features, validation)
    info(f"written to {target}")
    return report


def _validation_features(reference: Reference, domain: str | None) -> DriftFeatures:
    if domain is None:
        return reference.validation
    if domain not in reference.domains:
        known = reference.domains
        raise Fault(f"one of the domains {', '.join(known)}", repr(domain), suggest(domain, known))
    features = reference.validation.select(reference.domain_index == reference.domains.index(domain))
    if len(features) < MIN_ROWS:
        raise Fault(
            f"at least {MIN_ROWS} validation rows of {domain}",
            str(len(features)),
            "compare with all domains: leave out --domain",
        )
    return features


def drift_view(report: DriftReport) -> RenderableType:
    """Table that `moe drift` prints."""
    total, reference = report.whole, report.compared_with
    domain = f" of {reference.domain}" if reference.domain else ""
    title = f"{report.file} compared with {reference.rows:,} validation rows{domain}: {total.verdict}"
    table = Table(title=title, title_justify="left", header_style="bold")
    limits = [f"{name}\n/ limit" for name in MEASURES]
    for name in ("", "rows", *limits, "verdict", "mean\nconfidence", "median\ndistance"):
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=True)
    table.add_column("mean routing\nweights")
    table.add_row("validation", f"{reference.rows:,}", "", "", "", "", *_average_cells(reference), end_section=True)
    table.add_row("whole file", *_cells(total), end_section=True)
    for name, month in report.months.items():
        table.add_row(name, *_cells(month))
    return Group(table, *[Text(line) for line in _remarks(report)])


def _cells(comparison: DriftComparison) -> list[RenderableType]:
    measures = [_measure_cell(comparison.measures.get(name)) for name in MEASURES]
    verdict = Text(comparison.verdict, style="bold" if comparison.verdict == UNLIKE else "dim")
    return [f"{comparison.rows:,}", *measures, verdict, *_average_cells(comparison)]


def _measure_cell(test: DriftTest | None) -> Text:
    if test is None:
        return Text("–", style="dim")
    return Text(f"{test.value:.3f} / {test.limit:.3f}", style="bold" if test.unlike else "")


def _average_cells(averages: ValidationSummary | DriftComparison) -> list[str]:
    if averages.shares is None:
        return ["", "", ""]
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in averages.shares.items())
    return [f"{averages.confidence:.3f}", f"{averages.distance:.1f}", weights]


def _remarks(report: DriftReport) -> Iterator[str]:
    yield (
        f"limit: at least {1 - report.alarm:.0%} of files, or months, distributed like the validation rows stay "
        "within every limit"
    )
    if report.rejected:
        yield f"rows skipped because they have no readable text: {report.rejected:,}"
    if report.undated:
        example = report.unreadable_date
        remedy = f", e.g. {example!r}: set --date-format" if example is not None else ""
        yield f"rows assigned to no month because they have no readable date: {report.undated:,}{remedy}"


AXES = {"shares": "stability index", "confidence": "KS statistic", "distance": "KS statistic"}
"""Axis label of each measure in the plot by month."""


def plot_drift(path: Path, report: DriftReport, features: DriftFeatures, validation: DriftFeatures) -> None:
    """Plot one panel for each measure: by month if the file has dates, else the two distributions.

    Raises:
        Fault: if the file cannot be written.
    """
    months = {name: month for name, month in report.months.items() if month.measures}
    title = f"{Path(report.file).name} compared with validation rows: {report.whole.verdict}"
    names = [name for name in AXES if name != "shares" or validation.shares.shape[1] > 1]
    figure, axes = square_panels(len(names), title)
    for axis, name in zip(axes, names, strict=True):
        if months:
            _plot_by_month(axis, name, months)
        elif name == "shares":
            experts = list(report.compared_with.shares or ())
            _plot_routing_weights(axis, experts, features.shares.mean(0), validation.shares.mean(0))
        else:
            _plot_histograms(axis, name, getattr(features, name), getattr(validation, name))
    save_figure(figure, path)


def _plot_by_month(axis: Any, name: str, months: Mapping[str, DriftComparison]) -> None:
    x, tests = np.arange(len(months)), [month.measures[name] for month in months.values()]
    values, limits = np.array([test.value for test in tests]), np.array([test.limit for test in tests])
    axis.fill_between(x, 0, limits, color=GREY, alpha=0.2, lw=0, step="mid", label="limit")
    axis.plot(x, values, color=BLUE, lw=1.4, marker="o", ms=4, label="file")
    unlike = np.array([test.unlike for test in tests])
    axis.plot(x[unlike], values[unlike], color=RED, ls="", marker="o", ms=6, label="unlike")
    every = max(1, len(x) // 8)
    axis.set_xticks(x[::every], list(months)[::every], rotation=45, ha="right")
    axis.set_ylim(0, None)
    label_panel(axis, name, "", AXES[name])


def _plot_routing_weights(axis: Any, experts: list[str], file: np.ndarray, validation: np.ndarray) -> None:
    x = np.arange(len(experts))
    axis.bar(x - 0.2, 100 * validation, 0.4, color=GREY, label="validation")
    axis.bar(x + 0.2, 100 * file, 0.4, color=BLUE, label="file")
    axis.set_xticks(x, experts, rotation=45 if len(experts) > 4 else 0)
    label_panel(axis, "routing weights", "", "mean routing weight, %")


def _plot_histograms(axis: Any, name: str, file: np.ndarray, validation: np.ndarray) -> None:
    edges = np.histogram_bin_edges(np.concatenate([file, validation]), bins=30)
    for values, colour, legend in ((validation, GREY, "validation"), (file, BLUE, "file")):
        weights = np.full(len(values), 100 / max(1, len(values)))
        style = {"histtype": "stepfilled", "alpha": 0.5} if colour == GREY else {"histtype": "step", "lw": 1.5}
        axis.hist(values, edges, weights=weights, color=colour, label=legend, **style)
    label_panel(axis, name, "distance from training texts" if name == "distance" else "confidence", "rows, %")
