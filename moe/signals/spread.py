"""Quantile spreads: long the tickers with the highest signals, short those with the lowest, after costs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe.signals.correlation import Series, newey_west, rank_rows
from moe.signals.prices import Matrix, forward_returns
from moe.signals.results import SpreadResult
from moe.signals.settings import SignalSettings

BASIS_POINTS = 1e4


@dataclass(frozen=True)
class SpreadSeries:
    """Returns of the spread by session (T,).

    Args:
        gross: return of the session after the entry, before costs; NaN without a position.
        net: after the costs of the trades at the entry.
        turnover: value traded at the entry, and at the exit if no position follows, in units of one side's capital.
        quantiles: mean return of each quantile (T, Q); NaN for an empty one.
    """

    gross: Series
    net: Series
    turnover: Series
    quantiles: Matrix


def quantile_groups(signal: Matrix, tradable: NDArray[np.bool_], settings: SignalSettings) -> NDArray[np.int64]:
    """Return the quantile of each signal within its session, from 1, and 0 without one (T, N).

    Equal signals share a quantile. Whether there will be a later return plays no part.
    """
    known = np.isfinite(signal) & tradable
    known &= known.sum(1, keepdims=True) >= settings.min_tickers
    ranks = rank_rows(np.where(known, signal, np.nan))
    share = (ranks - 0.5) / np.maximum(known.sum(1, keepdims=True), 1)
    return np.where(known, np.floor(np.nan_to_num(share) * settings.quantiles) + 1, 0).astype(np.int64)


def spread_series(signal: Matrix, closes: Matrix, settings: SignalSettings) -> SpreadSeries:
    """Return the spread of every session.

    A ticker is traded if it has a close at the entry; without a close one session later it earns 0.
    """
    entry = np.full_like(closes, np.nan)
    entry[: len(closes) - settings.delay] = closes[settings.delay :]
    groups = quantile_groups(signal, np.isfinite(entry), settings)
    later = forward_returns(closes, 1, settings.delay)
    returns, earns = np.nan_to_num(later), np.isfinite(later).any(1)
    top, bottom = _equal_weights(groups == settings.quantiles), _equal_weights(groups == 1)
    held = np.asarray(top.any(1) & bottom.any(1))
    weights = np.where(held[:, None], top - bottom, 0)
    traded = np.abs(np.diff(weights, axis=0, prepend=0)).sum(1)
    exits = ~np.append(held[1:], True)  # a position that no other follows is closed in the session after
    turnover = traded + np.where(exits, np.append(traded[1:], 0), 0)
    earns &= held
    gross = np.where(earns, (weights * returns).sum(1), np.nan)
    quantiles = np.stack(
        [
            np.where(earns & (groups == number).any(1), (_equal_weights(groups == number) * returns).sum(1), np.nan)
            for number in range(1, settings.quantiles + 1)
        ],
        axis=1,
    )
    net = gross - turnover * settings.cost_bp / BASIS_POINTS
    return SpreadSeries(gross, net, np.where(earns, turnover, np.nan), quantiles)


def _equal_weights(members: NDArray[np.bool_]) -> Matrix:
    return np.asarray(members / np.maximum(members.sum(1, keepdims=True), 1), float)


def spread_result(series: SpreadSeries, settings: SignalSettings) -> SpreadResult:
    """Return the means of a spread, in basis points per session."""
    gross, net, turnover = newey_west(series.gross), newey_west(series.net), newey_west(series.turnover)
    by_quantile = [newey_west(column).mean for column in series.quantiles.T]
    return SpreadResult(
        sessions=gross.count,
        gross=_basis_points(gross.mean),
        net=_basis_points(net.mean),
        net_t=net.t,
        turnover=turnover.mean,
        cost_bp=settings.cost_bp,
        quantiles=[_basis_points(mean) for mean in by_quantile],
    )


def _basis_points(value: float | None) -> float | None:
    return None if value is None else value * BASIS_POINTS
