"""Information coefficients: Spearman correlation of signals and later returns by session, with Newey–West errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student

from moe.extras import require
from moe.signals.prices import Matrix
from moe.signals.results import IcRow
from moe.signals.settings import SignalSettings

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Series = NDArray[np.float64]
"""A number of each session (T,); NaN where there is none."""
MIN_SESSIONS = 10
"""Sessions below which no error of a mean is given."""
MIN_PERIODS = 5
"""Returns that do not overlap below which no error of a mean is given."""
MIN_SHIFTS = 20
"""Shifts below which there is no null."""


@dataclass(frozen=True)
class MeanTest:
    """Mean of a series with a Newey–West error.

    Args:
        count: number of values.
        mean: their mean; None without values.
        t: the mean in units of its error; None for too few values or without variance.
        p: two-sided p-value of `t` under Student's distribution, with as many degrees of freedom as values that do not
            overlap, less one.
    """

    count: int
    mean: float | None
    t: float | None = None
    p: float | None = None


def newey_west(series: Series, overlap: int = 1) -> MeanTest:
    """Test whether the mean of a series differs from 0, with an error that allows for autocorrelation.

    Args:
        series: values in order (T,); NaN are left out.
        overlap: sessions that a value covers.

    Returns:
        the test; the number of lags is the larger of 2 (`overlap` − 1) and 4 (n / 100)^(2/9). The weights of the lags
        fall linearly, so that `overlap` − 1 of them see two thirds of the variance of overlapping returns only.

    References:
        W. K. Newey and K. D. West, A simple, positive semi-definite, heteroskedasticity and autocorrelation consistent
        covariance matrix, Econometrica 55 (1987).
    """
    values = series[np.isfinite(series)]
    if not len(values):
        return MeanTest(0, None)
    mean = float(values.mean())
    if len(values) < max(MIN_SESSIONS, MIN_PERIODS * overlap) or np.ptp(values) < 1e-12:
        return MeanTest(len(values), mean)
    lags = min(len(values) - 1, max(2 * (overlap - 1), int(4 * (len(values) / 100) ** (2 / 9))))
    linear = require("statsmodels.regression.linear_model", "signals")
    fit = linear.OLS(values, np.ones(len(values))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True}
    )
    t = float(fit.tvalues[0])
    return MeanTest(len(values), mean, t, float(2 * student.sf(abs(t), len(values) / overlap - 1)))


def rank_rows(values: Matrix) -> Matrix:
    """Return the average ranks within each row, from 1; NaN stay."""
    return np.asarray(pd.DataFrame(values).rank(axis=1).to_numpy(float))


@dataclass(frozen=True)
class RankedRows:
    """Values with their ranks within each row, which are computed once for many comparisons.

    Args:
        values: (T, N); NaN where there is none.
        ranks: of the values that are there, in each row (T, N).
    """

    values: Matrix
    ranks: Matrix

    @classmethod
    def of(cls, values: Matrix) -> "RankedRows":
        """Rank the rows of a matrix."""
        return cls(values, rank_rows(values))

    def shifted(self, sessions: int) -> "RankedRows":
        """Return the rows moved by a number of sessions, the last ones to the beginning."""
        return RankedRows(np.roll(self.values, sessions, axis=0), np.roll(self.ranks, sessions, axis=0))

    def centred(self, rows: Rows, mask: Mask) -> Matrix:
        """Return the ranks among the values of a mask less their mean, 0 outside of it.

        Args:
            rows: indices of rows (R,).
            mask: which of their values count (R, N), all of them finite.
        """
        ranks = np.where(mask, self.ranks[rows], 0)
        partial = np.flatnonzero((mask != np.isfinite(self.values[rows])).any(1))
        if len(partial):
            again = rank_rows(np.where(mask[partial], self.values[rows[partial]], np.nan))
            ranks[partial] = np.nan_to_num(again)
        mean = ranks.sum(1, keepdims=True) / mask.sum(1, keepdims=True)
        return np.asarray(np.where(mask, ranks - mean, 0))


def ic_series(signal: RankedRows, returns: RankedRows, min_tickers: int) -> Series:
    """Return the Spearman correlation of signals and returns over the tickers of each session.

    Args:
        signal: known at the close of each session (T, N).
        returns: after that close (T, N).
        min_tickers: tickers with both below which a session has none.

    Returns:
        correlations (T,); NaN for sessions with too few tickers, or with equal signals or returns.
    """
    both = np.isfinite(signal.values) & np.isfinite(returns.values)
    rows = np.flatnonzero(both.sum(1) >= min_tickers)
    result = np.full(len(both), np.nan)
    left, right = signal.centred(rows, both[rows]), returns.centred(rows, both[rows])
    scale = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    np.divide((left * right).sum(1), scale, out=(part := np.full(len(rows), np.nan)), where=scale > 0)
    result[rows] = part
    return result


def _mean(series: Series) -> float | None:
    values = series[np.isfinite(series)]
    return float(values.mean()) if len(values) else None


def time_shifts(sessions: int, settings: SignalSettings) -> Sequence[int]:
    """Return by how many sessions the signals are shifted for the null: by more than any signal or return lasts.

    Returns:
        distinct shifts, at most `settings.shifts`; none if fewer than 20 are possible.
    """
    apart = settings.horizons[-1] + settings.delay + settings.max_age + 1
    possible = np.arange(apart, sessions - apart + 1)
    if len(possible) < MIN_SHIFTS:
        return []
    rng = np.random.default_rng(settings.seed)
    chosen: list[int] = rng.choice(possible, min(len(possible), settings.shifts), replace=False).tolist()
    return chosen


def ic_row(
    signal: RankedRows, returns: RankedRows, horizon: int, shifts: Sequence[int], settings: SignalSettings
) -> tuple[IcRow, Series]:
    """Return the mean information coefficient at a horizon, beside that of signals at shifted times, and its series.

    A shift keeps what every signal looks like and moves it to other sessions, the last ones to the beginning.
    """
    series = ic_series(signal, returns, settings.min_tickers)
    test = newey_west(series, horizon)
    nulls = (_mean(ic_series(signal.shifted(shift), returns, settings.min_tickers)) for shift in shifts)
    means = np.array([mean for mean in nulls if mean is not None])
    null, null_p = None, None
    if len(means) >= MIN_SHIFTS and test.mean is not None:
        low, high = np.quantile(means, [0.025, 0.975])
        null = (float(low), float(high))
        distances = np.abs(means - means.mean())  # tickers that always rise move the mean
        null_p = float((1 + (distances >= abs(test.mean - means.mean())).sum()) / (1 + len(means)))
    row = IcRow(horizon=horizon, sessions=test.count, mean=test.mean, t=test.t, p=test.p, null=null, null_p=null_p)
    return row, series
