"""Information coefficients: Spearman correlation of signals and later returns by session, with Newey–West errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe.extras import require
from moe.signals.prices import Matrix, forward_returns
from moe.signals.results import IcRow
from moe.signals.settings import SignalSettings

Series = NDArray[np.float64]
"""A number of each session (T,); NaN where there is none."""
MIN_SESSIONS = 10
"""Sessions below which no error of a mean is given."""


@dataclass(frozen=True)
class MeanTest:
    """Mean of a series with a Newey–West error.

    Args:
        count: number of values.
        mean: their mean; None without values.
        t: the mean in units of its error; None for fewer than 10 values or without variance.
        p: two-sided p-value of `t` under a normal distribution.
    """

    count: int
    mean: float | None
    t: float | None = None
    p: float | None = None


def newey_west(series: Series, overlap: int = 1) -> MeanTest:
    """Test whether the mean of a series differs from 0, with an error that allows for autocorrelation.

    Args:
        series: values in order (T,); NaN are left out.
        overlap: sessions that a value covers; the lags are at least one less.

    Returns:
        the test; the number of lags is the larger of `overlap` − 1 and 4 (n / 100)^(2/9).
    """
    values = series[np.isfinite(series)]
    if not len(values):
        return MeanTest(0, None)
    mean = float(values.mean())
    if len(values) < MIN_SESSIONS or np.ptp(values) < 1e-12:
        return MeanTest(len(values), mean)
    lags = min(len(values) - 1, max(overlap - 1, int(4 * (len(values) / 100) ** (2 / 9))))
    linear = require("statsmodels.regression.linear_model", "signals")
    fit = linear.OLS(values, np.ones(len(values))).fit(
        cov_type="HAC", cov_kwds={"maxlags": lags, "use_correction": True}
    )
    return MeanTest(len(values), mean, float(fit.tvalues[0]), float(fit.pvalues[0]))


def rank_rows(values: Matrix) -> Matrix:
    """Return the average ranks within each row, from 1; NaN stay."""
    return np.asarray(pd.DataFrame(values).rank(axis=1).to_numpy(float))


def ic_series(signal: Matrix, returns: Matrix, min_tickers: int) -> Series:
    """Return the Spearman correlation of signals and returns over the tickers of each session.

    Args:
        signal: known at the close of each session (T, N).
        returns: after that close (T, N).
        min_tickers: tickers with both below which a session has none.

    Returns:
        correlations (T,); NaN for sessions with too few tickers, or with equal signals or returns.
    """
    both = np.isfinite(signal) & np.isfinite(returns)
    enough = np.flatnonzero(both.sum(1) >= min_tickers)
    result = np.full(len(signal), np.nan)
    if not len(enough):
        return result
    mask = both[enough]
    ranks = [rank_rows(np.where(mask, values[enough], np.nan)) for values in (signal, returns)]
    left, right = (np.nan_to_num(rank - np.nanmean(rank, 1, keepdims=True)) for rank in ranks)
    scale = np.sqrt((left**2).sum(1) * (right**2).sum(1))
    np.divide((left * right).sum(1), scale, out=(part := np.full(len(enough), np.nan)), where=scale > 0)
    result[enough] = part
    return result


def time_shifts(sessions: int, settings: SignalSettings) -> Sequence[int]:
    """Return by how many sessions the signals are shifted for the null: by more than any signal or return lasts.

    Returns:
        distinct shifts, at most `settings.shifts`; none if there are fewer than 20 possible ones.
    """
    apart = settings.horizons[-1] + settings.delay + settings.max_age + 1
    possible = np.arange(apart, sessions - apart + 1)
    if len(possible) < 20:
        return []
    rng = np.random.default_rng(settings.seed)
    chosen: list[int] = rng.choice(possible, min(len(possible), settings.shifts), replace=False).tolist()
    return chosen


def ic_row(signal: Matrix, closes: Matrix, horizon: int, shifts: Sequence[int], settings: SignalSettings) -> IcRow:
    """Return the mean information coefficient at a horizon, beside that of signals at shifted times.

    A shift keeps what every signal looks like and moves it to other sessions, the last ones to the beginning.
    """
    returns = forward_returns(closes, horizon, settings.delay)
    test = newey_west(ic_series(signal, returns, settings.min_tickers), horizon)
    means = [np.nanmean(series) for series in _shifted(signal, returns, shifts, settings) if np.isfinite(series).any()]
    null, null_p = None, None
    if len(means) >= 20 and test.mean is not None:
        low, high = np.quantile(means, [0.025, 0.975])
        null = (float(low), float(high))
        distances = np.abs(np.array(means) - np.mean(means))  # tickers that always rise shift the mean
        null_p = float((1 + (distances >= abs(test.mean - np.mean(means))).sum()) / (1 + len(means)))
    return IcRow(horizon=horizon, sessions=test.count, mean=test.mean, t=test.t, p=test.p, null=null, null_p=null_p)


def _shifted(signal: Matrix, returns: Matrix, shifts: Sequence[int], settings: SignalSettings) -> list[Series]:
    return [ic_series(np.roll(signal, shift, axis=0), returns, settings.min_tickers) for shift in shifts]
