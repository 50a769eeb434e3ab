"""Abstaining: from a wanted accuracy to the confidence below which a text is left without a label.

How sure a model may claim to be is `moe.inference.calibration`'s; what an answer without a label looks like is
`moe.inference.stream`'s.
"""

from collections.abc import Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from experts.errors import Fault

MIN_ROWS = 30  # rows below which a share of right ones says too little


class RiskCoveragePoint(BaseModel):
    """What is kept at one threshold: the rows at least as confident, and how many of them are right."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(ge=0, le=1, description="confidence from which a row is kept; higher keeps fewer")
    rows: int = Field(ge=1, description="rows kept")
    right: int = Field(ge=0, description="of these, the right ones")

    @property
    def accuracy(self) -> float:
        """The share of kept rows that are right, 0 to 1."""
        return self.right / self.rows


def risk_coverage_curve(confidence: np.ndarray, right: np.ndarray, least: int = MIN_ROWS) -> tuple[RiskCoveragePoint, ...]:
    """The thresholds worth naming, from all rows to few: each is more accurate than every one that keeps more.

    It is the risk–coverage curve (El-Yaniv and Wiener, 2010) without the points that keep fewer rows for nothing.

    Args:
        confidence: (N,), of each row's label.
        right: (N,), whether it was right.
        least: rows that every point keeps at least.

    Returns:
        the first point keeps all rows, at threshold 0; empty where there are fewer than `least`.
    """
    order = np.argsort(-confidence, kind="stable")
    falling, hits = confidence[order], np.cumsum(right[order])  # (N,) each
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True)) if len(falling) else np.array([], dtype=int)
    found: list[RiskCoveragePoint] = []
    for i in last[last >= least - 1][::-1]:
        if not found or hits[i] / (i + 1) > found[-1].accuracy:
            found.append(RiskCoveragePoint(threshold=float(falling[i]) if found else 0.0, rows=int(i + 1), right=int(hits[i])))
    return tuple(found)


def find_point(curve: Sequence[RiskCoveragePoint], wanted: float) -> RiskCoveragePoint | None:
    """The smallest threshold whose kept rows reach a wanted accuracy; None where none does."""
    return next((one for one in curve if one.accuracy >= wanted), None)


def check_target_accuracy(wanted: float) -> None:
    """Refuse an accuracy that cannot be wanted.

    Raises:
        Fault: when it is not between 0 and 1.
    """
    if not 0 < wanted < 1:
        raise Fault("--abstain with an accuracy between 0 and 1", f"{wanted:g}", "say for example --abstain 0.9")


def require_point(task: str, curve: Sequence[RiskCoveragePoint], wanted: float) -> RiskCoveragePoint:
    """As `find_point`.

    Raises:
        Fault: when no threshold reaches it, naming the best that one does, and its coverage.
    """
    if not curve:
        expected = f"{MIN_ROWS} validation rows of {task}, to abstain by"
        raise Fault(expected, "fewer", "answer without --abstain, or calibrate on more validation rows")
    if (found := find_point(curve, wanted)) is None:
        best = curve[-1]
        told = f"at best {best.accuracy:.3f}, keeping {best.rows / curve[0].rows:.0%} of them"
        floor = int(best.accuracy * 1000) / 1000
        raise Fault(
            f"an accuracy that validation rows of {task} reach, not {wanted:g}", told, f"ask for {floor:g} or less"
        )
    return found
