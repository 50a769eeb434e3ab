"""Selective prediction: the confidence threshold above which predictions reach a target accuracy.

`moe.evaluation.calibration.thresholds` measures the thresholds and their bounds. Every prediction chooses among them,
so this module imports nothing heavy.
"""

from collections.abc import Sequence
from math import ceil, floor, log, log10, sqrt
from statistics import NormalDist

from pydantic import BaseModel, ConfigDict, Field

from experts.errors import Fault

MIN_ROWS = 30
"""Fewest validation rows of a task that thresholds are measured on."""
FIRST_START = 3
"""Rows of the first threshold that is tested, as a multiple of the rows that suffice if all of them are correct."""
SECOND_START, SECOND_START_ROWS = 0.3, 200
"""Where a second sequence of tests starts, as a share of the way to all rows, and how many rows it takes to have one.

It finds thresholds below a few very confident errors, as wrong labels make them. With few rows it costs more than that.
"""
POWER = 0.8
"""Share of draws in which a bound passes, at the number of rows that an estimate gives."""
LARGEST_MULTIPLE = 20
"""Bound of the estimate of how many more validation rows a target accuracy needs."""
TARGETS = tuple(i / 1000 for i in range(999, 0, -1))
"""Target accuracies that a fault may suggest, from high to low."""


class RiskCoveragePoint(BaseModel):
    """One threshold of a risk–coverage curve: the rows at least this confident, and how many of them are correct."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    threshold: float = Field(ge=0, le=1, description="lowest confidence that is retained; higher retains fewer rows")
    rows: int = Field(ge=1, description="number of retained rows")
    right: int = Field(ge=0, description="number of retained rows whose label is correct")
    lower: float | None = Field(
        None, ge=0, le=1, description="lower bound of the accuracy on such rows; none in a file of format 1"
    )
    lower_half: float | None = Field(None, ge=0, le=1, description="the same with half of the probability of error")

    @property
    def accuracy(self) -> float:
        """Accuracy on the retained rows, 0 to 1."""
        return self.right / self.rows


def find_point(
    curve: Sequence[RiskCoveragePoint], accuracy: float, level: float | None = None
) -> RiskCoveragePoint | None:
    """The point of lowest threshold that guarantees an accuracy; None if no point does.

    Learn-then-test (Angelopoulos et al., 2021) by the fallback procedure (Wiens, 2003): the points are tested from high
    to low thresholds, up to the first one whose lower bound is below the accuracy. From `SECOND_START_ROWS` rows on,
    two sequences start at different thresholds, each with half of the probability of error; where the first one
    reaches the start of the second, both halves are joined. Starts depend on the number of rows, not on their labels.
    So over draws of the validation rows, the accuracy above the returned threshold is below the target with a
    probability of at most 1 − level.

    Args:
        curve: from full to low coverage.
        level: confidence level of the points' lower bounds; None uses the accuracy on the validation rows, as a
            calibration without bounds does.
    """
    if level is None:
        return next((point for point in curve if point.accuracy >= accuracy), None)
    starts = _starts(curve[0].rows, accuracy, level) if curve else []
    part, budget, lowest = 1 / max(1, len(starts)), 0.0, None
    for point in reversed(curve):
        while starts and point.rows >= starts[0]:
            starts.pop(0)
            budget += part
        bound = point.lower if budget == 1 else point.lower_half
        if budget and bound is not None and bound >= accuracy:
            lowest = point
        else:
            budget = 0.0
    return lowest


def _starts(rows: int, accuracy: float, level: float) -> list[float]:
    """Fewest rows, of `rows`, that the first threshold of each sequence of tests retains.

    With the fewest rows that could pass, a single error would end a sequence; with many, coverage below is lost.
    """
    error = (1 - level) * (0.5 if rows >= SECOND_START_ROWS else 1.0)
    fewest = rows_if_all_correct(accuracy, 1 - error)
    first = max(fewest, min(FIRST_START * fewest, rows / 2))
    return [first, first + SECOND_START * (rows - first)] if rows >= SECOND_START_ROWS else [first]


def rows_if_all_correct(accuracy: float, level: float) -> int:
    """Fewest rows, all of them correct, whose lower bound reaches an accuracy: accuracy^rows ≤ 1 − level."""
    return ceil(log(1 - level) / log(accuracy) - 1e-9)


def rows_needed(curve: Sequence[RiskCoveragePoint], accuracy: float, level: float) -> int | None:
    """Estimate how many validation rows it takes at least to guarantee an accuracy, if they were like the curve's.

    Args:
        curve: on which no point guarantees the accuracy.

    Returns:
        the number with two significant digits; None if twenty times as many rows would not suffice.
    """
    if not curve:
        return None
    for step in range(1, 41):
        multiple = LARGEST_MULTIPLE ** (step / 40)
        if find_point([_scale(point, multiple, level) for point in curve], accuracy, level):
            rows: float = curve[0].rows * multiple
            unit: int = 10 ** max(0, floor(log10(rows)) - 1)
            return ceil(rows / unit) * unit
    return None


def _scale(point: RiskCoveragePoint, multiple: float, level: float) -> RiskCoveragePoint:
    """The point if its rows were more, with the same accuracy."""
    rows, right = round(point.rows * multiple), round(point.right * multiple)
    lower, lower_half = (_usual_lower(right, rows, error) for error in (1 - level, (1 - level) / 2))
    return RiskCoveragePoint(threshold=point.threshold, rows=rows, right=right, lower=lower, lower_half=lower_half)


def _usual_lower(right: int, rows: int, error: float) -> float:
    """Lower bound of an accuracy that most draws of rows exceed: Wilson's, with a continuity correction."""
    z = NormalDist().inv_cdf(1 - error) + NormalDist().inv_cdf(POWER)
    share = max(0.0, right - 0.5) / rows
    spread = z * sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2)
    return max(0.0, (share + z**2 / (2 * rows) - spread) / (1 + z**2 / rows))


def check_target_accuracy(accuracy: float) -> None:
    """Check the target accuracy of abstention.

    Raises:
        Fault: if it is not between 0 and 1.
    """
    if not 0 < accuracy < 1:
        raise Fault("--abstain with an accuracy between 0 and 1", f"{accuracy:g}", "set for example --abstain 0.9")


def require_point(
    task: str, curve: Sequence[RiskCoveragePoint], accuracy: float, level: float | None = None
) -> RiskCoveragePoint:
    """The point that `find_point` finds.

    Raises:
        Fault: if there is none; it states the highest accuracy that has one, its coverage, and how many
            validation rows the target accuracy takes at least.
    """
    if not curve:
        expected = f"at least {MIN_ROWS} validation rows of {task} to derive a threshold from"
        raise Fault(expected, "fewer", "predict without --abstain, or calibrate on more validation rows")
    if (point := find_point(curve, accuracy, level)) is not None:
        return point
    best = next((target for target in TARGETS if target < accuracy and find_point(curve, target, level)), None)
    remedy = "predict without --abstain" if best is None else f"set --abstain to {best:g} or less"
    if level is None:
        expected = f"an accuracy that the validation rows of {task} reach, not {accuracy:g}"
    else:
        expected = f"an accuracy that the validation rows of {task} guarantee at level {level:g}, not {accuracy:g}"
        needed = rows_needed(curve, accuracy, level)
        remedy += f", or calibrate on {needed:,} or more validation rows" if needed else ""
    raise Fault(expected, _best_of(curve, best, level), remedy)


def _best_of(curve: Sequence[RiskCoveragePoint], best: float | None, level: float | None) -> str:
    rows = f"{curve[0].rows:,} rows"
    if best is None or (point := find_point(curve, best, level)) is None:
        return f"none on {rows}"
    return f"at best {best:.3f} at {point.rows / curve[0].rows:.0%} coverage on {rows}"
