"""Conformal label sets: quantiles fitted on validation rows, and what the sets and abstaining give on other rows."""

from collections.abc import Iterator, Mapping

import numpy as np

from experts.errors import Fault
from moe.bootstrap import wilson_interval
from moe.evaluation.calibration.temperature import TaskLogits
from moe.evaluation.calibration.thresholds import retained_rows
from moe.extras import require
from moe.inference.abstention import find_point
from moe.inference.calibration import LabelSets, TaskCalibration, rows_for_sets
from moe.results.calibration import LabelSetReport, SetCoverage

ROUNDING = 1e-12
"""Added to 1 − level, so that the rounding of the difference never asks for one row more."""


def fit_label_sets(task: TaskLogits, level: float) -> LabelSets | None:
    """Fit the conformal sets of a task: the ⌈(n + 1) · level⌉-th smallest of 1 − p(true label) of its n rows.

    Args:
        task: calibrated logits of labelled validation rows.
        level: least share of texts like these rows whose set holds the true label.

    Returns:
        the sets; None with fewer than `rows_for_sets(level)` rows, or if rows have any number of labels.

    Raises:
        Fault: if MAPIE is not installed.
    """
    if task.own_kind.is_set or len(task.true) < rows_for_sets(level):
        return None
    lac = require("mapie.conformity_scores", "conformal").LACConformityScore()
    scores = lac.get_conformity_scores(task.true, task.probabilities(1.0), y_enc=task.true)  # (N, 1)
    (quantile,) = lac.get_conformity_score_quantiles(scores, np.array([1 - level + ROUNDING]), cv="prefit")
    return LabelSets(level=level, rows=len(task.true), quantile=float(np.clip(quantile, 0, 1)))


def with_label_sets(
    calibrations: Mapping[str, TaskCalibration], validation: Mapping[str, TaskLogits], level: float
) -> dict[str, TaskCalibration]:
    """Return the calibrations with label sets for every task that has enough validation rows.

    Args:
        validation: logits of the labelled rows by task, at temperature 1.
        level: see `fit_label_sets`.

    Raises:
        Fault: if no task has one label per row and enough rows, or MAPIE is not installed.
    """
    sets = {task: fit_label_sets(validation[task].cooled(its.temperature), level) for task, its in calibrations.items()}
    if not any(sets.values()):
        single = [task for task in calibrations if not validation[task].own_kind.is_set]
        if not single:
            raise Fault("a task with one label per row for --conformal", "only multi-label tasks", "omit --conformal")
        most = max(single, key=lambda task: len(validation[task].true))
        raise Fault(
            f"at least {rows_for_sets(level):,} labelled validation rows of a task for --conformal {level:g}",
            f"at most {len(validation[most].true):,}, of {most}",
            "choose a lower --conformal, or give the run's domains more validation rows",
        )
    return {task: its.model_copy(update={"label_sets": sets[task]}) for task, its in calibrations.items()}


def check_set_level(level: float) -> None:
    """Check the level of label sets.

    Raises:
        Fault: if it is not at least 0.5 and below 1.
    """
    if not 0.5 <= level < 1:
        raise Fault("--conformal of at least 0.5 and below 1", f"{level:g}", "set for example --conformal 0.9")


def label_set_report(
    calibrations: Mapping[str, TaskCalibration], rows: Mapping[str, TaskLogits], domain_by_task: Mapping[str, str]
) -> LabelSetReport | None:
    """Coverage and size of the label sets on labelled rows, by task and domain; None if no task has sets.

    Beside them stands what abstaining gives at a target accuracy of the same level.

    Args:
        rows: calibrated logits by task.
        domain_by_task: the domain that each task belongs to.
    """
    level = next((its.label_sets.level for its in calibrations.values() if its.label_sets is not None), None)
    if level is None:
        return None
    measured = {
        task: _TaskSets(rows[task], its, level)
        for task, its in calibrations.items()
        if task in rows and its.label_sets is not None
    }
    tasks = {}
    for task, its in calibrations.items():
        if its.label_sets is None:
            continue
        fitted = {"bound": 1 - its.label_sets.quantile, "validation_rows": its.label_sets.rows}
        coverage = _pool([measured[task]]) if task in measured else SetCoverage(rows=0)
        tasks[task] = coverage.model_copy(update=fitted)
    domains = {
        domain: _pool([measured[task] for task in measured if domain_by_task[task] == domain])
        for domain in dict.fromkeys(domain_by_task[task] for task in measured)
    }
    too_few = {
        task: its.rows
        for task, its in calibrations.items()
        if its.label_sets is None and not (task in rows and rows[task].own_kind.is_set)
    }
    return LabelSetReport(
        level=level, rows_needed=rows_for_sets(level), tasks=tasks, domains=domains, too_few_rows=too_few
    )


class _TaskSets:
    """The sets of a task's rows, and which rows abstaining answers.

    Args:
        rows: calibrated logits.
        calibration: with label sets.
        level: target accuracy of abstaining.
    """

    def __init__(self, rows: TaskLogits, calibration: TaskCalibration, level: float) -> None:
        assert calibration.label_sets is not None
        probabilities = rows.probabilities(1.0)  # (N, K)
        members = probabilities >= calibration.label_sets.bound  # (N, K)
        members[np.arange(len(members)), probabilities.argmax(1)] = True
        self.size = members.sum(1)  # (N,)
        self.covered = members[np.arange(len(members)), rows.true]  # (N,)
        self.correct = rows.correct  # (N,)
        point = find_point(calibration.curve, level, calibration.level)
        self.answered = None if point is None else probabilities.max(1) >= point.threshold  # (N,)


def _pool(parts: list[_TaskSets]) -> SetCoverage:
    """Coverage of the sets of several tasks; that of abstaining only if all of them have a threshold."""
    size, covered, correct = (
        np.concatenate([getattr(part, name) for part in parts]) for name in ("size", "covered", "correct")
    )  # (N,) each
    interval = wilson_interval(int(covered.sum()), len(covered))
    coverage = SetCoverage(
        rows=len(covered),
        coverage=interval.value,
        coverage_interval=(interval.low, interval.high),
        mean_size=float(size.mean()),
        single=float((size == 1).mean()),
    )
    answered = list(_known(parts))
    if len(answered) < len(parts):
        return coverage
    return coverage.model_copy(update={"abstain": retained_rows(np.concatenate(answered), correct)})


def _known(parts: list[_TaskSets]) -> Iterator[np.ndarray]:
    """Rows that abstaining answers, of the tasks that have a threshold."""
    return (part.answered for part in parts if part.answered is not None)
