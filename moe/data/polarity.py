"""Polarity of labels, and whether a file's scores are polarities: their sign and order must agree with the labels."""

import re
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

POLARITY_LABELS = (("negative", "positive"), ("bearish", "bullish"), ("利空", "利好"))
_OTHER_LABELS = (("neg", "pos"), ("bear", "bull"), ("负面", "正面"), ("消极", "积极"))
"""Further spellings, which count in the check of scores only."""
_NEUTRAL = ("neutral", "neu", "中性")
_NEGATIONS = {"not", "non", "no"}
_FEW_ROWS, _SOME_ROWS, _MANY_ROWS = 3, 10, 20
_WRONG_SHARE = 0.6
"""Share of the rows of a label with a score of the other sign from which the scores are no polarities."""
_MIN_AGREEMENT = 0.6
"""Probability that a positive row has the higher score than a negative one, below which they are none; .5 is chance."""
_STRAY_SHARE = 0.01
"""Largest share of scores of the other sign among scores that count as having one sign."""
_SHOWN_LABELS = 5

Scores = NDArray[np.float64]


def find_sign(labels: Sequence[str]) -> tuple[str, str] | None:
    """Return the negative and the positive label among the labels of a task; None if they have no sign."""
    return next((pair for pair in POLARITY_LABELS if set(pair) <= set(labels)), None)


def label_signs(labels: Sequence[str]) -> dict[str, int]:
    """Return −1, 0 or 1 for each label that has a polarity by its name, such as `negative`, `very positive` or `-1`."""
    numbers = {label: number for label in labels if (number := _number(label)) is not None}
    if len(numbers) == len(labels) and min(numbers.values(), default=0) < 0 < max(numbers.values(), default=0):
        return {label: (number > 0) - (number < 0) for label, number in numbers.items()}
    signs = {label: _sign_by_name(label) for label in labels}
    return {label: sign for label, sign in signs.items() if sign is not None}


def _number(label: str) -> float | None:
    try:
        return float(label)
    except ValueError:
        return None


def _sign_by_name(label: str) -> int | None:
    name = label.casefold()
    words = set(re.findall(r"[^\W\d_]+", name))
    if words & _NEGATIONS:
        return None
    signs = {
        sign
        for names, sign in ((_names_of(0), -1), (_names_of(1), 1), (_NEUTRAL, 0))
        for known in names
        if known in words or (not known.isascii() and known in name)
    }
    return signs.pop() if len(signs) == 1 else None


def _names_of(side: int) -> tuple[str, ...]:
    return tuple(pair[side] for pair in (*POLARITY_LABELS, *_OTHER_LABELS))


def rank_agreement(low: ArrayLike, high: ArrayLike) -> float:
    """Return the probability that a score of `high` (n,) exceeds one of `low` (m,), ties counted as half."""
    ordered, others = np.sort(np.asarray(low, float)), np.asarray(high, float)
    below = np.searchsorted(ordered, others, "left") + np.searchsorted(ordered, others, "right")  # (n,), twice
    return float(below.mean() / (2 * len(ordered)))


def score_finding(scores: Mapping[str, ArrayLike]) -> str | None:
    """Return why scores are no polarities, or None if they may be.

    Labels with a polarity decide by the sign and the order of their scores. Among labels without one, such as
    `inclaim` and `outofclaim`, scores of a single sign are no polarities: they are a classifier's confidence, a
    probability or another measure.

    Args:
        scores: scores in [-1, 1] of the rows of each label, by its name.
    """
    groups = {label: np.asarray(values, float) for label, values in scores.items() if len(np.asarray(values))}
    if not groups:
        return None
    signs, values = label_signs(tuple(groups)), np.concatenate(list(groups.values()))
    sides = {sign: _rows_of(groups, signs, sign) for sign in (-1, 0, 1)}
    reason = _signed_reason(sides, values) or _unsigned_reason(groups, signs, values)
    if reason is None:
        return None
    shown = sorted(groups, key=lambda label: (signs.get(label, 2), label))[:_SHOWN_LABELS]
    means = ", ".join(f"{groups[label].mean():+.2f} in {len(groups[label])} rows labelled {label}" for label in shown)
    more = f" and {len(groups) - len(shown)} further labels" if len(groups) > len(shown) else ""
    return f"{reason}: a mean of {means}{more}{_as_confidence(values, len(groups))}"


def one_sign(scores: ArrayLike) -> bool:
    """Whether practically no score is below 0, or none above 0; false for fewer than 20 scores."""
    values = np.asarray(scores, float)
    return len(values) >= _MANY_ROWS and _has_one_sign(values)


def _has_one_sign(values: Scores) -> bool:
    return bool(min((values < 0).mean(), (values > 0).mean()) <= _STRAY_SHARE)


def _rows_of(groups: Mapping[str, Scores], signs: Mapping[str, int], sign: int) -> Scores:
    return np.concatenate([np.empty(0), *(values for label, values in groups.items() if signs.get(label) == sign)])


def _signed_reason(sides: Mapping[int, Scores], values: Scores) -> str | None:
    """What contradicts the labels that have a polarity."""
    for sign, name in ((-1, "negative"), (1, "positive")):
        rows = sides[sign]
        if len(rows) >= _FEW_ROWS:
            wrong = float((rows * sign < 0).mean())
            if wrong >= (_WRONG_SHARE if len(rows) >= _SOME_ROWS else 1):
                return f"{wrong:.0%} of the scores of {name} rows are {'above' if sign < 0 else 'below'} 0"
            if not (rows * sign > 0).any() and _has_one_sign(values) and len(values) >= _SOME_ROWS:
                return f"no score is {'below' if sign < 0 else 'above'} 0, not even of {name} rows"
    low = sides[-1] if len(sides[-1]) >= _SOME_ROWS else sides[0]
    high = sides[1] if len(sides[1]) >= _SOME_ROWS else sides[0]
    if low is high or min(len(low), len(high)) < _SOME_ROWS:
        return None
    error = np.sqrt((len(low) + len(high) + 1) / (12 * len(low) * len(high)))  # of the agreement, if it is chance
    agreement = rank_agreement(low, high)
    if agreement + error < _MIN_AGREEMENT:
        return f"the order of the scores does not follow the labels (rank agreement {agreement:.2f}; .5 is chance)"
    return None


def _unsigned_reason(groups: Mapping[str, Scores], signs: Mapping[str, int], values: Scores) -> str | None:
    """What contradicts any polarity, if labels have none by their names."""
    if len(groups) < 2 or not set(groups) - set(signs) or -1 in signs.values():
        return None
    if one_sign(values) or (len(values) >= 2 * _FEW_ROWS and _is_confidence(values, len(groups))):
        return "all scores have the same sign"
    return None


def _is_confidence(values: Scores, labels: int) -> bool:
    """Whether scores are in the range of the probability of the most probable of two or three labels."""
    return bool(labels in (2, 3) and values.min() >= 1 / labels and values.max() <= 1)


def _as_confidence(values: Scores, labels: int) -> str:
    """A clause that names what the scores probably are, by their range."""
    if _is_confidence(values, labels):
        return f"; all are from {1 / labels:.2f} to 1, as a classifier's confidence in its own label is"
    return "; all are from 0 to 1, as a probability is" if values.min() >= 0 else ""
