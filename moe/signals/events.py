"""Event study: abnormal returns around sessions whose polarity surprises, with bootstrap bands."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe.signals.aggregate import SignalPanel
from moe.signals.prices import Matrix, session_returns
from moe.signals.results import EventCurve
from moe.signals.settings import SignalSettings
from moe.signals.spread import BASIS_POINTS

MIN_SESSIONS = 10
"""Sessions with surprises below which no curve is given."""
MIN_BLOCKS = 5
"""Blocks of sessions that the bootstrap draws at least."""


def surprise_scores(mean: Matrix, history: int) -> Matrix:
    """Return how unusual each session's polarity is for its ticker, in standard deviations of earlier sessions.

    Only sessions with texts count, and only earlier ones: the last `history` of them, of which half are needed.

    Args:
        mean: mean polarity by session and ticker (T, N), NaN without texts.
        history: earlier sessions with texts that are compared.
    """
    columns, rows = np.nonzero(np.isfinite(mean.T))
    values = pd.Series(mean[rows, columns])
    rolling = values.groupby(columns).rolling(history, min_periods=history // 2)
    before = rolling.agg(["mean", "std"]).groupby(level=0).shift(1).droplevel(0).sort_index()
    scores = np.full_like(mean, np.nan)
    spread = before["std"].where(before["std"] > 1e-9)
    scores[rows, columns] = ((values - before["mean"]) / spread).to_numpy()
    return scores


def abnormal_returns(closes: Matrix, min_tickers: int) -> Matrix:
    """Return each session's returns minus their mean over the tickers (T, N); unchanged where there are too few."""
    returns = session_returns(closes)
    known = np.isfinite(returns).sum(1)
    mean = np.where(known >= min_tickers, np.nan_to_num(returns).sum(1) / np.maximum(known, 1), 0)
    return returns - mean[:, None]


def event_curves(panel: SignalPanel, closes: Matrix, settings: SignalSettings) -> list[EventCurve]:
    """Return the mean cumulative abnormal return around positive and around negative surprises.

    A surprise without a return in one of the sessions around it is left out. The bands resample blocks of as many
    sessions as are shown after a surprise, since the returns of one session are related, and the curves of surprises
    that are few sessions apart have returns in common (circular block bootstrap: Politis and Romano, 1992).
    """
    scores = surprise_scores(panel.mean, settings.surprise_history)
    returns = abnormal_returns(closes, settings.min_tickers)
    before, after = settings.event_sessions // 2, settings.event_sessions
    curves = []
    for direction, sign in (("positive", 1), ("negative", -1)):
        rows, columns = np.nonzero(np.nan_to_num(scores) * sign >= settings.surprise)
        inside = (rows >= before) & (rows + after < len(closes))
        rows, columns = rows[inside], columns[inside]
        offsets = np.arange(-before + 1, after + 1)
        paths = returns[rows[:, None] + offsets, columns[:, None]]  # (M, before + after)
        complete = np.isfinite(paths).all(1)
        if len(np.unique(rows[complete])) >= MIN_SESSIONS:
            curves.append(_curve(direction, _cumulate(paths[complete], before), rows[complete], settings))
    return curves


def _cumulate(paths: Matrix, before: int) -> Matrix:
    """Cumulative returns from `before` sessions earlier, 0 at the surprise's close (M, before + after + 1)."""
    sums = np.cumsum(np.pad(paths, ((0, 0), (1, 0))), axis=1)
    shifted: Matrix = sums - sums[:, [before]]
    return shifted


def _curve(direction: str, paths: Matrix, sessions: NDArray[np.int64], settings: SignalSettings) -> EventCurve:
    at = sessions - sessions.min()
    sums = np.zeros((at.max() + 1, paths.shape[1]))
    np.add.at(sums, at, paths)
    sizes = np.bincount(at)
    draws = _block_draws(len(sizes), settings)  # (resamples, sessions)
    drawn = draws @ sizes
    means = (draws @ sums)[drawn > 0] / drawn[drawn > 0, None]
    low, high = np.quantile(means, [0.025, 0.975], axis=0) * BASIS_POINTS
    before = settings.event_sessions // 2
    return EventCurve(
        direction=direction,
        events=len(paths),
        offsets=list(range(-before, settings.event_sessions + 1)),
        mean=(paths.mean(0) * BASIS_POINTS).tolist(),
        low=low.tolist(),
        high=high.tolist(),
    )


def _block_draws(sessions: int, settings: SignalSettings) -> Matrix:
    """How often each session is drawn (resamples, sessions): blocks of consecutive ones, the last beside the first."""
    length = max(1, min(settings.event_sessions, sessions // MIN_BLOCKS))
    rng = np.random.default_rng(settings.seed)
    starts = rng.integers(0, sessions, (settings.resamples, -(-sessions // length)))
    drawn = (starts[:, :, None] + np.arange(length)).reshape(settings.resamples, -1) % sessions
    flat = drawn + sessions * np.arange(settings.resamples)[:, None]
    counts = np.bincount(flat.ravel(), minlength=settings.resamples * sessions)
    return np.asarray(counts.reshape(settings.resamples, sessions), float)
