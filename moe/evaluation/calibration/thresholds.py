"""Risk–coverage curves: thresholds on the confidence, each with a lower bound of the accuracy above it."""

import numpy as np
from scipy.stats import beta

from experts.errors import Fault
from moe.bootstrap import wilson_interval
from moe.inference.abstention import MIN_ROWS, RiskCoveragePoint
from moe.results.calibration import RetainedRows

POINTS = 30
"""Number of thresholds of a curve. More lose less coverage to the gaps, but end a sequence of tests earlier."""
FEWEST_RETAINED = 20
"""Number of rows that the highest threshold retains."""
DEFAULT_LEVEL = 0.9
"""Confidence level of the bounds."""


def risk_coverage_curve(
    confidence: np.ndarray, correct: np.ndarray, level: float = DEFAULT_LEVEL
) -> tuple[RiskCoveragePoint, ...]:
    """Thresholds from full to low coverage, evenly spaced in rows (El-Yaniv and Wiener, 2010).

    The thresholds do not depend on the labels, as the tests of `moe.inference.abstention.find_point` require.

    Args:
        confidence: (N,), of each row's label.
        correct: (N,), whether the label is correct.
        level: confidence level of each lower bound, 0 to 1.

    Returns:
        the points; the first one retains all rows at threshold 0. Empty if there are fewer than `MIN_ROWS` rows.
    """
    total = len(confidence)
    if total < MIN_ROWS:
        return ()
    order = np.argsort(-confidence, kind="stable")
    descending, hits = confidence[order], np.cumsum(correct[order])  # (N,) each
    steps = np.linspace(FEWEST_RETAINED, total, POINTS).round().astype(int)
    # Rows of equal confidence cannot be separated, so a point ends at the last row of its confidence.
    ends = np.unique(np.searchsorted(-descending, -descending[steps - 1], side="right"))
    return tuple(
        RiskCoveragePoint(
            threshold=float(descending[rows - 1]) if rows < total else 0.0,
            rows=int(rows),
            right=int(hits[rows - 1]),
            lower=lower_bound(int(hits[rows - 1]), int(rows), level),
            lower_half=lower_bound(int(hits[rows - 1]), int(rows), (1 + level) / 2),
        )
        for rows in ends[::-1]
    )


def lower_bound(right: int, rows: int, level: float = DEFAULT_LEVEL) -> float:
    """Lower bound of an accuracy, one-sided and exact (Clopper and Pearson, 1934).

    Args:
        right: number of correct rows.
        rows: number of rows, at least 1.
        level: probability, over draws of the rows, that the bound does not exceed the accuracy; at least.
    """
    return float(beta.ppf(1 - level, right, rows - right + 1)) if right else 0.0


def retained_rows(retained: np.ndarray, correct: np.ndarray) -> RetainedRows:
    """Coverage and accuracy of the rows that a threshold retains.

    Args:
        retained: (N,), whether each row is retained.
        correct: (N,), whether its label is correct.
    """
    rows, right = int(retained.sum()), int((retained & correct).sum())
    coverage = rows / len(retained)
    if not rows:
        return RetainedRows(rows=rows, coverage=coverage)
    its = wilson_interval(right, rows)
    return RetainedRows(rows=rows, coverage=coverage, accuracy=its.value, accuracy_interval=(its.low, its.high))


def check_level(level: float) -> None:
    """Check the confidence level of the bounds.

    Raises:
        Fault: if it is not at least 0.5 and below 1.
    """
    if not 0.5 <= level < 1:
        raise Fault("--level of at least 0.5 and below 1", f"{level:g}", f"set for example --level {DEFAULT_LEVEL:g}")
