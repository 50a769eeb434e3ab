"""Selective prediction: the confidence threshold above which predictions reach a target accuracy."""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from experts.errors import Fault

MIN_ROWS = 30  # with fewer rows the accuracy above a threshold is too uncertain


class RiskCoveragePoint(BaseModel):
    """One threshold of a risk–coverage curve: the rows at least this confident, and how many of them are correct."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(ge=0, le=1, description="lowest confidence that is retained; higher retains fewer rows")
    rows: int = Field(ge=1, description="number of retained rows")
    right: int = Field(ge=0, description="number of retained rows whose label is correct")

    @property
    def accuracy(self) -> float:
        """Accuracy on the retained rows, 0 to 1."""
        return self.right / self.rows


def risk_coverage_curve(
    confidence: np.ndarray, correct: np.ndarray, min_rows: int = MIN_ROWS
) -> tuple[RiskCoveragePoint, ...]:
    """Thresholds from full coverage to low coverage, each more accurate than every threshold that retains more rows.

    This is the risk–coverage curve (El-Yaniv and Wiener, 2010) without the points that lose coverage for no gain in
    accuracy.

    Args:
        confidence: (N,), of each row's label.
        correct: (N,), whether the label is correct.
        min_rows: fewest rows that a point may retain.

    Returns:
        the points; the first one retains all rows at threshold 0. Empty if there are fewer than `min_rows` rows.
    """
    order = np.argsort(-confidence, kind="stable")
    descending, hits = confidence[order], np.cumsum(correct[order])  # (N,) each
    # Rows of equal confidence cannot be separated, so a point ends at the last row of each confidence.
    last = np.flatnonzero(np.append(descending[1:] != descending[:-1], True)) if len(order) else np.array([], dtype=int)
    curve: list[RiskCoveragePoint] = []
    for i in last[last >= min_rows - 1][::-1]:
        if not curve or hits[i] / (i + 1) > curve[-1].accuracy:
            threshold = float(descending[i]) if curve else 0.0
            curve.append(RiskCoveragePoint(threshold=threshold, rows=int(i + 1), right=int(hits[i])))
    return tuple(curve)


def find_point(curve: Sequence[RiskCoveragePoint], accuracy: float) -> RiskCoveragePoint | None:
    """The point of lowest threshold that reaches an accuracy; None if no point does."""
    return next((point for point in curve if point.accuracy >= accuracy), None)


def check_target_accuracy(accuracy: float) -> None:
    """Check the target accuracy of abstention.

    Raises:
        Fault: if it is not between 0 and 1.
    """
    if not 0 < accuracy < 1:
        raise Fault("--abstain with an accuracy between 0 and 1", f"{accuracy:g}", "set for example --abstain 0.9")


def require_point(task: str, curve: Sequence[RiskCoveragePoint], accuracy: float) -> RiskCoveragePoint:
    """The point of lowest threshold that reaches an accuracy.

    Raises:
        Fault: if no point reaches it; it states the best accuracy and its coverage.
    """
    if not curve:
        expected = f"at least {MIN_ROWS} validation rows of {task} to derive a threshold from"
        raise Fault(expected, "fewer", "predict without --abstain, or calibrate on more validation rows")
    if (point := find_point(curve, accuracy)) is None:
        best = curve[-1]
        reachable = int(best.accuracy * 1000) / 1000  # rounded down, so that the advice works
        raise Fault(
            f"an accuracy that the validation rows of {task} reach, not {accuracy:g}",
            f"at best {best.accuracy:.3f} at {best.rows / curve[0].rows:.0%} coverage",
            f"set --abstain to {reachable:g} or less",
        )
    return point
