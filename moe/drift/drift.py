"""`moe drift`: does a file differ from what a model was trained on, and since which month."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.stats import permutation_test

from experts.atomic_io import write_json
from experts.errors import Fault, suggest
from moe.console import Table, info
from moe.drift.fit import MIN_ROWS, extract_features
from moe.drift.reference import DriftFeatures, Reference, read_reference
from moe.drift.timeline import DriftRequest, read_dated_texts
from moe.extras import check_extra
from moe.inference.load_mixture import load_mixture
from moe.inference.torch_predictor import TorchPredictor
from moe.plots.calibration import GREY
from moe.plots.style import BLUE, RED, label_panel, save_figure, square_panels
from moe.runs.model_ref import resolve

ALARM = 0.05
"""False alarm rate: the share of files, or months, of the validation rows' distribution that are called unlike."""
PERMUTATIONS = 999
MAX_COMPARED = 2000
"""Most rows of a file or month, and of validation, that enter a test; larger sets are subsampled."""
UNLIKE, ALIKE, FEW = "unlike", "alike", "too few rows"
DriftReport = dict[str, Any]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Row indices of two samples, (P, n) and (P, m) → how much the samples differ (P,), for P permutations."""


def drift(
    folder: Path, request: DriftRequest, target: Path, sets: Sequence[str] = (), quiet: bool = True
) -> DriftReport:
    """Compare a file with a model's drift reference, in total and by month, and write `drift.json` and `drift.png`.

    Returns:
        `model`, `file`, `rejected`, `undated` (rows without a readable date; None if the file has no dates),
        `unreadable_date` (the first date that cannot be parsed, or None),
        `compared_with` (domain or None, number of validation rows), `alarm`, `whole`, and `months` by name. `whole` and
        each month have `rows`, `verdict`, `measures` (by name `value`, `limit`, `p`, `unlike`), `shares` (mean routing
        weight by expert), `confidence` (mean), `distance` (median). Where rows are too few for a verdict, `measures` is
        empty.

    Raises:
        Fault: if the model, its reference or the file cannot be read, or a column is missing.
    """
    check_extra("report")  # the charts are drawn last
    reference = read_reference(folder)
    validation = _validation_features(reference, request.domain)
    dated = read_dated_texts(request)
    model, template, length = load_mixture(resolve(folder), sets)
    predictor = TorchPredictor(model, template, length, states=True)
    features = extract_features(predictor, reference.space, dated.texts, request.file.name, quiet)
    months = np.array([month or "" for month in dated.months])
    by_month = {name: features.select(months == name) for name in sorted(set(months) - {""})} if dated.dated else {}
    report = {
        "model": str(folder),
        "file": str(request.file),
        "rejected": dated.rejected,
        "undated": int((months == "").sum()) if dated.dated else None,
        "unreadable_date": dated.unreadable,
        "compared_with": {"domain": request.domain, "rows": len(validation)} | _averages(validation, reference.experts),
        "alarm": ALARM,
        "whole": compare_features(features, validation, reference.experts),
        "months": {name: compare_features(part, validation, reference.experts) for name, part in by_month.items()},
    }
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


def compare_features(features: DriftFeatures, validation: DriftFeatures, experts: Sequence[str]) -> DriftReport:
    """Compare texts with validation texts: averages, a permutation test for each measure, and a verdict."""
    averages = {"rows": len(features)} | _averages(features, experts)
    if len(features) < MIN_ROWS:
        return averages | {"verdict": FEW, "measures": {}}
    ours, theirs = _subsample(features), _subsample(validation)
    measures = {name: make for name, make in MEASURES.items() if name != "shares" or len(experts) > 1}
    level = ALARM / len(measures)  # Bonferroni: all tests together have at most the false alarm rate of ALARM
    tests = {name: _test(make, ours, theirs, level) for name, make in measures.items()}
    verdict = UNLIKE if any(test["unlike"] for test in tests.values()) else ALIKE
    return averages | {"verdict": verdict, "measures": tests}


def _averages(features: DriftFeatures, experts: Sequence[str]) -> DriftReport:
    if not len(features):
        return {"shares": None, "confidence": None, "distance": None}
    return {
        "shares": dict(zip(experts, features.shares.mean(0).tolist(), strict=True)),
        "confidence": float(features.confidence.mean()),
        "distance": float(np.median(features.distance)),
    }


def _subsample(features: DriftFeatures) -> DriftFeatures:
    if len(features) <= MAX_COMPARED:
        return features
    return features.select(np.sort(np.random.default_rng(0).choice(len(features), MAX_COMPARED, replace=False)))


def _test(
    make: Callable[[DriftFeatures, DriftFeatures], Statistic], ours: DriftFeatures, theirs: DriftFeatures, level: float
) -> DriftReport:
    """Permutation test of one measure: its value, against its values when all rows are split at random.

    If the file has the distribution of the validation rows, every way to split the pooled rows is equally likely.
    """
    statistic = make(ours, theirs)
    samples = np.arange(len(ours)), np.arange(len(ours), len(ours) + len(theirs))
    result = permutation_test(
        samples,
        lambda a, b, axis: statistic(np.atleast_2d(a).astype(int), np.atleast_2d(b).astype(int)),
        n_resamples=PERMUTATIONS,
        batch=50,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    limit = float(np.quantile(result.null_distribution, 1 - level))
    p = float(np.squeeze(result.pvalue))
    return {"value": float(np.squeeze(result.statistic)), "limit": limit, "p": p, "unlike": bool(p <= level)}


def _stability_index(ours: DriftFeatures, theirs: DriftFeatures) -> Statistic:
    """Population stability index of mean routing weights: Σ (p − q) · ln(p / q) over experts."""
    shares = np.concatenate([ours.shares, theirs.shares])  # (N, E)

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        p, q = (np.clip(shares[rows].mean(1), 1e-6, None) for rows in (a, b))  # (P, E)
        index: np.ndarray = ((p - q) * np.log(p / q)).sum(-1)
        return index

    return statistic


def _ks_statistic(name: str) -> Callable[[DriftFeatures, DriftFeatures], Statistic]:
    """Kolmogorov-Smirnov statistic of a feature: the largest gap between two cumulative distributions, 0 to 1."""

    def make(ours: DriftFeatures, theirs: DriftFeatures) -> Statistic:
        values = np.concatenate([getattr(ours, name), getattr(theirs, name)])  # (N,)
        order = np.argsort(values, kind="stable")  # (N,)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        last = np.append(np.diff(values[order]) > 0, True)  # ties: compare after the last of equal values only

        def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            steps = np.zeros((len(a), len(values)))
            np.put_along_axis(steps, rank[a], 1.0 / a.shape[-1], axis=-1)
            np.put_along_axis(steps, rank[b], -1.0 / b.shape[-1], axis=-1)
            statistic: np.ndarray = np.abs(steps.cumsum(-1)[:, last]).max(-1)
            return statistic

        return statistic

    return make


MEASURES: dict[str, Callable[[DriftFeatures, DriftFeatures], Statistic]] = {
    "shares": _stability_index,
    "confidence": _ks_statistic("confidence"),
    "distance": _ks_statistic("distance"),
}


def drift_view(report: Mapping[str, Any]) -> RenderableType:
    """Table that `moe drift` prints."""
    total, reference = report["whole"], report["compared_with"]
    domain = f" of {reference['domain']}" if reference["domain"] else ""
    title = f"{report['file']} compared with {reference['rows']:,} validation rows{domain}: {total['verdict']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    limits = [f"{name}\n/ limit" for name in MEASURES]
    for name in ("", "rows", *limits, "verdict", "mean\nconfidence", "median\ndistance"):
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=True)
    table.add_column("mean routing\nweights")
    table.add_row("validation", f"{reference['rows']:,}", "", "", "", "", *_average_cells(reference), end_section=True)
    table.add_row("whole file", *_cells(total), end_section=True)
    for name, month in report["months"].items():
        table.add_row(name, *_cells(month))
    return Group(table, *[Text(line) for line in _remarks(report)])


def _cells(comparison: Mapping[str, Any]) -> list[RenderableType]:
    measures = [_measure_cell(comparison["measures"].get(name)) for name in MEASURES]
    verdict = Text(comparison["verdict"], style="bold" if comparison["verdict"] == UNLIKE else "dim")
    return [f"{comparison['rows']:,}", *measures, verdict, *_average_cells(comparison)]


def _measure_cell(test: Mapping[str, Any] | None) -> Text:
    if test is None:
        return Text("–", style="dim")
    return Text(f"{test['value']:.3f} / {test['limit']:.3f}", style="bold" if test["unlike"] else "")


def _average_cells(averages: Mapping[str, Any]) -> list[str]:
    if averages["shares"] is None:
        return ["", "", ""]
    weights = ", ".join(f"{name} {weight:.0%}" for name, weight in averages["shares"].items())
    return [f"{averages['confidence']:.3f}", f"{averages['distance']:.1f}", weights]


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    yield (
        f"limit: at least {1 - report['alarm']:.0%} of files, or months, distributed like the validation rows stay "
        "within every limit"
    )
    if report["rejected"]:
        yield f"rows skipped because they have no readable text: {report['rejected']:,}"
    if report["undated"]:
        example = report["unreadable_date"]
        remedy = f", e.g. {example!r}: set --date-format" if example is not None else ""
        yield f"rows assigned to no month because they have no readable date: {report['undated']:,}{remedy}"


AXES = {"shares": "stability index", "confidence": "KS statistic", "distance": "KS statistic"}
"""Axis label of each measure in the plot by month."""


def plot_drift(path: Path, report: Mapping[str, Any], features: DriftFeatures, validation: DriftFeatures) -> None:
    """Plot one panel for each measure: by month if the file has dates, else the two distributions.

    Raises:
        Fault: if the file cannot be written.
    """
    months = {name: month for name, month in report["months"].items() if month["measures"]}
    title = f"{Path(report['file']).name} compared with validation rows: {report['whole']['verdict']}"
    names = [name for name in AXES if name != "shares" or validation.shares.shape[1] > 1]
    figure, axes = square_panels(len(names), title)
    for axis, name in zip(axes, names, strict=True):
        if months:
            _plot_by_month(axis, name, months)
        elif name == "shares":
            experts = list(report["compared_with"]["shares"])
            _plot_routing_weights(axis, experts, features.shares.mean(0), validation.shares.mean(0))
        else:
            _plot_histograms(axis, name, getattr(features, name), getattr(validation, name))
    save_figure(figure, path)


def _plot_by_month(axis: Any, name: str, months: Mapping[str, Any]) -> None:
    x, tests = np.arange(len(months)), [month["measures"][name] for month in months.values()]
    values, limits = (np.array([test[key] for test in tests]) for key in ("value", "limit"))
    axis.fill_between(x, 0, limits, color=GREY, alpha=0.2, lw=0, step="mid", label="limit")
    axis.plot(x, values, color=BLUE, lw=1.4, marker="o", ms=4, label="file")
    unlike = np.array([test["unlike"] for test in tests])
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
