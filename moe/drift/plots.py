"""The picture of `moe drift`: measures by month beside their limits, or the two distributions where there are no dates.

What is measured is `moe.drift.drift`'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from moe.drift.reference import Seen
from moe.plots.calibration import GREY, label, panels, save
from moe.plots.palette import BLUE, RED

AXES = {"shares": "stability index", "confidence": "greatest gap", "distance": "greatest gap"}
"""What a measure by month is called on its axis."""


def draw(path: Path, report: Mapping[str, Any], seen: Seen, held: Seen) -> None:
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
