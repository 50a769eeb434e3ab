"""Calibrates a model: a temperature a task, fitted on validation rows, and what it does to validation and test rows.

What a model keeps of it is `moe.inference.calibration`'s, thresholds are `moe.inference.abstention`'s, pictures
`moe.plots.calibration`'.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from rich.console import Group, RenderableType
from rich.text import Text
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.bootstrap import wilson_interval
from moe.console import Table
from moe.evaluation.test_sets import load_run_rows
from moe.evaluation.evaluate import EvaluatedRow, evaluate_rows, group_by_task
from moe.evaluation.metrics import calibration_metrics
from moe.extras import check_extra
from moe.inference.abstention import MIN_ROWS, RiskCoveragePoint, find_point, risk_coverage_curve
from moe.inference.calibration import CALIBRATION, TaskCalibration, write_calibration
from moe.inference.loading import load_model
from moe.inference.predictor import Predictor
from moe.plots.calibration import write_reliability_chart, write_risk_coverage_chart
from moe.report.terminal import format_interval
from moe.runs.workspace import Workspace

SPLITS = ("validation", "test")
WANTED = (0.8, 0.85, 0.9, 0.95)
COLDEST, MAX_TEMPERATURE = 0.05, 20.0


@dataclass(frozen=True)
class TaskLogits:
    """What a model said of one task's labelled rows.

    Args:
        logits: (N, K), up to a constant a row.
        true: (N,), the index of each row's label.
    """

    logits: np.ndarray
    true: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """(N,), whether each row was right; no temperature changes it."""
        return self.logits.argmax(1) == self.true

    def probabilities(self, temperature: float) -> np.ndarray:
        """(N, K), at a temperature."""
        return softmax(self.logits / temperature, axis=1)


Tasks = dict[str, TaskLogits]


def calibrate(work: Workspace, folder: Path, sets: Sequence[str] = (), quiet: bool = True) -> dict[str, Any]:
    """Fit a model's temperatures and thresholds on the run's validation rows, and write them into its folder.

    Rows are answered softly, with the labels of their own domain. Figures and pictures go below `evaluation/MODEL/`.

    Returns:
        `model`, and by task `temperature`, `remark`, `validation` and `test` (rows and `moe.evaluation.metrics.calibration_metrics`
        before and after), `abstain` (by wanted accuracy: threshold, coverage, and what test rows say).

    Raises:
        Fault: when the model cannot be opened, there are no labelled validation rows, or a folder cannot be written.
    """
    check_extra("report")  # the charts are drawn last
    model, template, length = load_model(folder, sets)
    predictor = Predictor(model, template, length)
    held_out, test = (said(predictor, load_run_rows(work, model, split), split, quiet) for split in SPLITS)
    if not held_out:
        raise Fault("labelled validation rows to calibrate on", "none", "give the run's domains a validation split")
    fitted = {task: fit_calibration(one) for task, one in held_out.items()}
    report = calibration_report(folder, fitted, held_out, test)
    write_calibration(folder, fitted)
    target = work.out / "evaluation" / folder.name
    write_json(target / CALIBRATION, report)
    shown = test or held_out
    write_reliability_chart(target / "reliability.png", "test" if test else "validation", _before_and_after(shown, fitted))
    write_risk_coverage_chart(target / "risk_coverage.png", _by_split(held_out, test, fitted))
    return report


def said(predictor: Predictor, rows: Dataset, title: str, quiet: bool) -> Tasks:
    """What a model says of labelled rows, by task, at temperature 1."""
    space = predictor.model.labels
    judged = [one for one in evaluate_rows(predictor, rows, title=title, quiet=quiet) if one.true is not None]
    return {task: _stacked(some) for task, some in group_by_task(judged, space).items()}


def _stacked(judged: Sequence[EvaluatedRow]) -> TaskLogits:
    probabilities = np.stack([one.masked.probabilities for one in judged])  # (N, K)
    logits = np.log(probabilities.clip(np.finfo(float).tiny))  # (N, K)
    return TaskLogits(logits, np.array([one.masked.labels.index(one.true) for one in judged]))


def fit_calibration(one: TaskLogits) -> TaskCalibration:
    """A task's temperature and thresholds; below `MIN_ROWS` rows 1 and none."""
    temperature = fit_temperature(one) if len(one.true) >= MIN_ROWS and not one.right.all() else 1.0
    curve = risk_coverage_curve(one.probabilities(temperature).max(1), one.right)
    return TaskCalibration(temperature=temperature, rows=len(one.true), curve=curve)


def fit_temperature(one: TaskLogits) -> float:
    """The temperature T whose softmax(logits / T) has the least log loss (Guo et al., 2017), held in 1/20 to 20.

    The log loss is convex in 1/T, so there is one minimum; where every row is right it falls without end as T does.
    """

    def loss(exponent: float) -> float:
        return float(-log_softmax(one.logits * np.exp(-exponent), axis=1)[np.arange(len(one.true)), one.true].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([COLDEST, MAX_TEMPERATURE]), method="bounded").x))


def calibration_report(folder: Path, fitted: Mapping[str, TaskCalibration], held_out: Tasks, test: Tasks) -> dict[str, Any]:
    """Figures before and after, see `calibrate`."""
    tasks = {}
    for task, one in fitted.items():
        sides = {"validation": held_out[task]} | ({"test": test[task]} if task in test else {})
        tasks[task] = {
            "temperature": one.temperature,
            "remark": _remark(one, held_out[task]),
            **{split: _figures(side, one.temperature) for split, side in sides.items()},
            "abstain": {f"{wanted:.2f}": _abstaining(one, wanted, test.get(task)) for wanted in WANTED},
        }
    return {"model": str(folder), "tasks": tasks}


def _remark(one: TaskCalibration, held_out: TaskLogits) -> str | None:
    if one.rows < MIN_ROWS:
        return f"{one.rows} validation rows, fewer than {MIN_ROWS}: T stays 1, no thresholds"
    if held_out.right.all():
        return "every validation row is right, which says nothing of T: it stays 1"
    return None


def _figures(one: TaskLogits, temperature: float) -> dict[str, Any]:
    before, after = (calibration_metrics(one.probabilities(t), one.true) for t in (1.0, temperature))
    return {"rows": len(one.true), "accuracy": float(one.right.mean()), "before": before, "after": after}


def _abstaining(one: TaskCalibration, wanted: float, test: TaskLogits | None) -> dict[str, Any] | None:
    """What is kept at a wanted accuracy; None where validation rows do not reach it."""
    if (kept := find_point(one.curve, wanted)) is None:
        return None
    found = {"threshold": kept.threshold, "coverage": kept.rows / one.rows, "accuracy": kept.accuracy}
    return found | ({"test": _kept_of(test, one.temperature, kept)} if test else {})


def _kept_of(test: TaskLogits, temperature: float, kept: RiskCoveragePoint) -> dict[str, Any]:
    mask = test.probabilities(temperature).max(1) >= kept.threshold  # (N,)
    rows, right = int(mask.sum()), int((mask & test.right).sum())
    found: dict[str, Any] = {"rows": rows, "coverage": rows / len(mask)}
    if rows:
        sure = wilson_interval(right, rows)
        found |= {"accuracy": sure.value, "accuracy_interval": sure.bounds}
    return found


def _before_and_after(
    shown: Tasks, fitted: Mapping[str, TaskCalibration]
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    return {
        task: {
            name: (one.probabilities(t).max(1), one.right)
            for name, t in (("T = 1", 1.0), (f"T = {fitted[task].temperature:.2f}", fitted[task].temperature))
        }
        for task, one in shown.items()
        if task in fitted
    }


def _by_split(
    held_out: Tasks, test: Tasks, fitted: Mapping[str, TaskCalibration]
) -> dict[str, dict[str, tuple[np.ndarray, np.ndarray]]]:
    return {
        task: {
            name: (side[task].probabilities(one.temperature).max(1), side[task].right)
            for name, side in (("validation", held_out), ("test", test))
            if task in side
        }
        for task, one in fitted.items()
    }


def calibration_view(report: Mapping[str, Any]) -> RenderableType:
    """All that `moe calibrate` prints."""
    remarks = [Text(f"{task}: {one['remark']}") for task, one in report["tasks"].items() if one["remark"]]
    return Group(_honesty_table(report), *remarks, _abstain_table(report))


def _honesty_table(report: Mapping[str, Any]) -> Table:
    title = "before → after; ECE by 15 bins of equal width, Brier 0 to 2, log loss in nats"
    table = Table(title=title, title_justify="left", header_style="bold")
    for name in ("task", "T", "rows of", "rows", "ECE", "Brier", "log loss"):
        table.add_column(name, justify="left" if name in ("task", "rows of") else "right", no_wrap=True)
    for task, one in report["tasks"].items():
        sides = [split for split in SPLITS if split in one]
        for split in sides:
            head = (task, f"{one['temperature']:.2f}") if split == sides[0] else ("", "")
            pairs = [_arrow(one[split], name) for name in ("ece", "brier", "log_loss")]
            table.add_row(*head, split, str(one[split]["rows"]), *pairs, end_section=split == sides[-1])
    return table


def _arrow(figures: Mapping[str, Any], name: str) -> str:
    return f"{figures['before'][name]:.3f} → {figures['after'][name]:.3f}"


def _abstain_table(report: Mapping[str, Any]) -> Table:
    table = Table(title="abstaining: moe infer --abstain ACCURACY", title_justify="left", header_style="bold")
    for name in ("task", "wanted", "confidence\nfrom", "validation\nkept", "test\nkept", "test\naccuracy", "95 %"):
        table.add_column(name, justify="left" if name == "task" else "right")
    for task, one in report["tasks"].items():
        for i, (wanted, kept) in enumerate(one["abstain"].items()):
            last = i == len(one["abstain"]) - 1
            table.add_row(task if i == 0 else "", wanted, *_kept_cells(kept), end_section=last)
    return table


def _kept_cells(kept: Mapping[str, Any] | None) -> list[RenderableType]:
    if kept is None:
        return [Text("out of reach", style="dim")]
    test = kept.get("test", {})
    cells: list[RenderableType] = [f"{kept['threshold']:.3f}", f"{kept['coverage']:.0%}"]
    cells.append(f"{test['coverage']:.0%}" if test else "–")
    return [*cells, f"{test['accuracy']:.3f}", format_interval(test["accuracy_interval"])] if test.get("rows") else cells
