"""Comparison of texts' drift features with those of validation texts: a permutation test for each measure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from scipy.stats import permutation_test

from moe.drift.fit import MIN_ROWS
from moe.drift.reference import DriftFeatures

ALARM = 0.05
"""False alarm rate: the share of files, or months, of the validation rows' distribution that are called unlike."""
PERMUTATIONS = 999
MAX_COMPARED = 2000
"""Most rows of a file or month, and of validation, that enter a test; larger sets are subsampled."""
UNLIKE, ALIKE, FEW = "unlike", "alike", "too few rows"
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Row indices of two samples, (P, n) and (P, m) → how much the samples differ (P,), for P permutations."""


class FeatureAverages(TypedDict):
    """Averages over rows, None if there are none; see `DriftComparison`."""

    shares: Mapping[str, float] | None
    confidence: float | None
    distance: float | None


@dataclass(frozen=True)
class DriftTest:
    """Permutation test of one measure.

    Args:
        value: of the measure; 0 for equal distributions.
        limit: value that rows of the validation rows' distribution exceed at the false alarm rate only.
        p: p-value of the test.
        unlike: whether the rows differ at that rate.
    """

    value: float
    limit: float
    p: float
    unlike: bool


@dataclass(frozen=True)
class DriftComparison:
    """Rows of a file or a month, compared with validation rows.

    Args:
        rows: their number.
        shares: mean routing weight by expert; None without rows, as the next two.
        confidence: mean confidence of the predictions.
        distance: median distance from the training texts.
        verdict: `UNLIKE`, `ALIKE` or `FEW`.
        measures: test by measure; empty if there are too few rows for a verdict.
    """

    rows: int
    shares: Mapping[str, float] | None
    confidence: float | None
    distance: float | None
    verdict: str
    measures: Mapping[str, DriftTest]


def compare_features(features: DriftFeatures, validation: DriftFeatures, experts: Sequence[str]) -> DriftComparison:
    """Compare texts with validation texts: averages, a permutation test for each measure, and a verdict."""
    rows, averages = len(features), average_features(features, experts)
    if rows < MIN_ROWS:
        return DriftComparison(rows=rows, **averages, verdict=FEW, measures={})
    ours, theirs = _subsample(features), _subsample(validation)
    measures = {name: make for name, make in MEASURES.items() if name != "shares" or len(experts) > 1}
    level = ALARM / len(measures)  # Bonferroni: all tests together have at most the false alarm rate of ALARM
    tests = {name: _test(make, ours, theirs, level) for name, make in measures.items()}
    verdict = UNLIKE if any(test.unlike for test in tests.values()) else ALIKE
    return DriftComparison(rows=rows, **averages, verdict=verdict, measures=tests)


def average_features(features: DriftFeatures, experts: Sequence[str]) -> FeatureAverages:
    """Return the averages of texts' features; None without texts."""
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
) -> DriftTest:
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
    return DriftTest(value=float(np.squeeze(result.statistic)), limit=limit, p=p, unlike=bool(p <= level))


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
