"""`moe drift`: is a file unlike what a model was trained on, and since which month.

What it is held against was fitted by `moe.drift.fit`; the picture is `moe.drift.drift`'s.
"""

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
from moe.inference.loading import load_model
from moe.inference.predictor import Predictor
from moe.plots.calibration import GREY
from moe.plots.style import BLUE, RED, label, panels, save

ALARM = 0.05
"""How often a file, or a month, that is like validation rows is called unlike, at most."""
PERMUTATIONS = 999
MAX_COMPARED = 2000
"""Rows of a file or month, and of validation, that are held against each other; more are sampled."""
UNLIKE, ALIKE, FEW = "unlike", "alike", "too few rows"
DriftReport = dict[str, Any]


def drift(folder: Path, asked: DriftRequest, target: Path, sets: Sequence[str] = (), quiet: bool = True) -> DriftReport:
    """Hold a file against a model's reference, whole and by month, and write `drift.json` and `drift.png`.

    Returns:
        `model`, `file`, `rejected`, `undated` (rows without a date that can be read; None where no dates are asked
        for), `compared_with` (domain or None, validation rows), `alarm`, `whole`, and `months` by name. Each of these
        has `rows`, `verdict`, `measures` (by name `value`, `limit`, `p`, `unlike`), `shares` (mean, by expert),
        `confidence` (mean), `distance` (median); where rows are too few for a verdict, no measures.

    Raises:
        Fault: when model, reference or file cannot be read, or a column is missing.
    """
    reference = read_reference(folder)
    held = _held(reference, asked.domain)
    found = read_dated_texts(asked)
    model, template, length = load_model(folder, sets)
    seen = extract_features(
        Predictor(model, template, length, states=True), reference.space, found.texts, asked.file.name, quiet
    )
    months = np.array([one or "" for one in found.months])
    by_month = {name: seen.select(months == name) for name in sorted(set(months) - {""})} if found.dated else {}
    report = {
        "model": str(folder),
        "file": str(asked.file),
        "rejected": found.rejected,
        "undated": int((months == "").sum()) if found.dated else None,
        "compared_with": {"domain": asked.domain, "rows": len(held)} | _means(held, reference.experts),
        "alarm": ALARM,
        "whole": compare_features(seen, held, reference.experts),
        "months": {name: compare_features(one, held, reference.experts) for name, one in by_month.items()},
    }
    write_json(target / "drift.json", report)
    plot_drift(target / "drift.png", report, seen, held)
    info(f"written to {target}")
    return report


def _held(reference: Reference, domain: str | None) -> DriftFeatures:
    if domain is None:
        return reference.validation
    if domain not in reference.domains:
        known = reference.domains
        raise Fault(f"one of the domains {', '.join(known)}", repr(domain), suggest(domain, known))
    held = reference.validation.select(reference.domain_index == reference.domains.index(domain))
    if len(held) < MIN_ROWS:
        raise Fault(f"at least {MIN_ROWS} validation rows of {domain}", str(len(held)), "compare with all: no --domain")
    return held


def compare_features(seen: DriftFeatures, held: DriftFeatures, experts: Sequence[str]) -> DriftReport:
    """Some rows beside validation rows: every measure, and the verdict."""
    means = {"rows": len(seen)} | _means(seen, experts)
    if len(seen) < MIN_ROWS:
        return means | {"verdict": FEW, "measures": {}}
    ours, theirs = (_some(one) for one in (seen, held))
    measures = {name: one for name, one in MEASURES.items() if name != "shares" or len(experts) > 1}
    level = ALARM / len(measures)  # Bonferroni's: all measures together raise no more alarms than one of this level
    told = {name: _measured(one, ours, theirs, level) for name, one in measures.items()}
    verdict = UNLIKE if any(one["unlike"] for one in told.values()) else ALIKE
    return means | {"verdict": verdict, "measures": told}


def _means(seen: DriftFeatures, experts: Sequence[str]) -> DriftReport:
    if not len(seen):
        return {"shares": None, "confidence": None, "distance": None}
    shares = dict(zip(experts, seen.shares.mean(0).tolist(), strict=True))
    return {
        "shares": shares,
        "confidence": float(seen.confidence.mean()),
        "distance": float(np.median(seen.distance)),
    }


def _some(seen: DriftFeatures) -> DriftFeatures:
    if len(seen) <= MAX_COMPARED:
        return seen
    return seen.select(np.sort(np.random.default_rng(0).choice(len(seen), MAX_COMPARED, replace=False)))


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Of places (draws, n) and (draws, m) among all rows: how far the two apart are, (draws,)."""


def _measured(
    make: Callable[[DriftFeatures, DriftFeatures], Statistic], ours: DriftFeatures, theirs: DriftFeatures, level: float
) -> DriftReport:
    """A measure of the rows as they are, and of the same rows dealt anew at random, again and again.

    Were the file like the validation rows, any way of dealing would be as good as the one that there is.
    """
    statistic = make(ours, theirs)
    places = np.arange(len(ours)), np.arange(len(ours), len(ours) + len(theirs))
    found = permutation_test(
        places,
        lambda a, b, axis: statistic(np.atleast_2d(a).astype(int), np.atleast_2d(b).astype(int)),
        n_resamples=PERMUTATIONS,
        batch=50,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(0),
    )
    limit = float(np.quantile(found.null_distribution, 1 - level))
    p = float(np.squeeze(found.pvalue))
    return {"value": float(np.squeeze(found.statistic)), "limit": limit, "p": p, "unlike": bool(p <= level)}


def _stability(ours: DriftFeatures, theirs: DriftFeatures) -> Statistic:
    """Population stability index of mean shares: Σ (p − q) · ln(p / q) over experts."""
    shares = np.concatenate([ours.shares, theirs.shares])  # (N, E)

    def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        p, q = (np.clip(shares[places].mean(1), 1e-6, None) for places in (a, b))  # (draws, E)
        return ((p - q) * np.log(p / q)).sum(-1)

    return statistic


def _gap(name: str) -> Callable[[DriftFeatures, DriftFeatures], Statistic]:
    """Kolmogorov and Smirnov's: the greatest gap between two cumulative distributions, 0 to 1."""

    def make(ours: DriftFeatures, theirs: DriftFeatures) -> Statistic:
        values = np.concatenate([getattr(ours, name), getattr(theirs, name)])  # (N,)
        order = np.argsort(values, kind="stable")  # (N,)
        rank = np.empty_like(order)
        rank[order] = np.arange(len(order))
        last = np.append(np.diff(values[order]) > 0, True)  # of equal values only the last is a step

        def statistic(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            steps = np.zeros((len(a), len(values)))
            np.put_along_axis(steps, rank[a], 1.0 / a.shape[-1], axis=-1)
            np.put_along_axis(steps, rank[b], -1.0 / b.shape[-1], axis=-1)
            return np.abs(steps.cumsum(-1)[:, last]).max(-1)

        return statistic

    return make


MEASURES: dict[str, Callable[[DriftFeatures, DriftFeatures], Statistic]] = {
    "shares": _stability,
    "confidence": _gap("confidence"),
    "distance": _gap("distance"),
}


def drift_view(report: Mapping[str, Any]) -> RenderableType:
    """What `moe drift` prints."""
    one, other = report["whole"], report["compared_with"]
    whose = f" of {other['domain']}" if other["domain"] else ""
    title = f"{report['file']} beside {other['rows']:,} validation rows{whose}: {one['verdict']}"
    table = Table(title=title, title_justify="left", header_style="bold")
    limits = [f"{name}\n/ limit" for name in MEASURES]
    for name in ("", "rows", *limits, "verdict", "mean\nconfidence", "median\ndistance"):
        table.add_column(name, justify="left" if name in ("", "verdict") else "right", no_wrap=True)
    table.add_column("mean shares")
    table.add_row("validation", f"{other['rows']:,}", "", "", "", "", *_middle(other), end_section=True)
    table.add_row("whole file", *_cells(one), end_section=True)
    for name, some in report["months"].items():
        table.add_row(name, *_cells(some))
    return Group(table, *[Text(line) for line in _remarks(report)])


def _cells(one: Mapping[str, Any]) -> list[RenderableType]:
    measures = [_measure(one["measures"].get(name)) for name in MEASURES]
    verdict = Text(one["verdict"], style="bold" if one["verdict"] == UNLIKE else "dim")
    return [f"{one['rows']:,}", *measures, verdict, *_middle(one)]


def _measure(one: Mapping[str, Any] | None) -> Text:
    if one is None:
        return Text("–", style="dim")
    return Text(f"{one['value']:.3f} / {one['limit']:.3f}", style="bold" if one["unlike"] else "")


def _middle(one: Mapping[str, Any]) -> list[str]:
    if one["shares"] is None:
        return ["", "", ""]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in one["shares"].items())
    return [f"{one['confidence']:.3f}", f"{one['distance']:.1f}", shares]


def _remarks(report: Mapping[str, Any]) -> Iterator[str]:
    kept = f"{1 - report['alarm']:.0%}"
    yield f"limit: of files, or months, that are like validation rows, {kept} or more stay within all of them"
    if report["rejected"]:
        yield f"left out, without a text that can be read: {report['rejected']:,}"
    if report["undated"]:
        yield f"in no month, without a date that can be read: {report['undated']:,}"


AXES = {"shares": "stability index", "confidence": "greatest gap", "distance": "greatest gap"}
"""What a measure by month is called on its axis."""


def plot_drift(path: Path, report: Mapping[str, Any], seen: DriftFeatures, held: DriftFeatures) -> None:
    """One panel a measure.

    Raises:
        Fault: when the file cannot be written.
    """
    months = {name: one for name, one in report["months"].items() if one["measures"]}
    about = f"{Path(report['file']).name} beside validation rows: {report['whole']['verdict']}"
    names = [name for name in AXES if name != "shares" or held.shares.shape[1] > 1]
    figure, axes = panels(len(names), about)
    for axis, name in zip(axes, names, strict=True):
        if months:
            _by_month(axis, name, months)
        elif name == "shares":
            _bars(axis, list(report["compared_with"]["shares"]), seen.shares.mean(0), held.shares.mean(0))
        else:
            _histograms(axis, name, getattr(seen, name), getattr(held, name))
    save(figure, path)


def _by_month(axis: Any, name: str, months: Mapping[str, Any]) -> None:
    places, found = np.arange(len(months)), [one["measures"][name] for one in months.values()]
    values, limits = (np.array([one[key] for one in found]) for key in ("value", "limit"))
    axis.fill_between(places, 0, limits, color=GREY, alpha=0.2, lw=0, step="mid", label="limit")
    axis.plot(places, values, color=BLUE, lw=1.4, marker="o", ms=4, label="file")
    over = np.array([one["unlike"] for one in found])
    axis.plot(places[over], values[over], color=RED, ls="", marker="o", ms=6, label="unlike")
    every = max(1, len(places) // 8)
    axis.set_xticks(places[::every], list(months)[::every], rotation=45, ha="right")
    axis.set_ylim(0, None)
    label(axis, name, "", AXES[name])


def _bars(axis: Any, experts: list[str], seen: np.ndarray, held: np.ndarray) -> None:
    places = np.arange(len(experts))
    axis.bar(places - 0.2, 100 * held, 0.4, color=GREY, label="validation")
    axis.bar(places + 0.2, 100 * seen, 0.4, color=BLUE, label="file")
    axis.set_xticks(places, experts, rotation=45 if len(experts) > 4 else 0)
    label(axis, "shares", "", "mean share, %")


def _histograms(axis: Any, name: str, seen: np.ndarray, held: np.ndarray) -> None:
    edges = np.histogram_bin_edges(np.concatenate([seen, held]), bins=30)
    for values, colour, told in ((held, GREY, "validation"), (seen, BLUE, "file")):
        weights = np.full(len(values), 100 / max(1, len(values)))
        filled = {"histtype": "stepfilled", "alpha": 0.5} if colour == GREY else {"histtype": "step", "lw": 1.5}
        axis.hist(values, edges, weights=weights, color=colour, label=told, **filled)
    label(axis, name, "from training texts" if name == "distance" else "of the answer", "rows, %")
