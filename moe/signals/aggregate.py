"""Answers to signals: one row a ticker and session, with an exponential decay over sessions."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe.signals.novelty import Flags
from moe.signals.prices import Matrix
from moe.signals.sessions import Sessions
from moe.signals.settings import SignalSettings

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class SignalPanel:
    """Signals by session (T) and ticker (N).

    Args:
        count: number of texts.
        novel: number of texts that repeat no earlier one; the only ones that enter the next two.
        mean: mean polarity of the session, weighted by confidence; NaN without texts.
        dispersion: standard deviation of the polarity with the same weights.
        signal: decayed mean over this and earlier sessions; NaN before the first text and long after the last.
    """

    count: Matrix
    novel: Matrix
    mean: Matrix
    dispersion: Matrix
    signal: Matrix


@dataclass(frozen=True)
class PlacedAnswers:
    """Answers with their sessions, in the order of time.

    Args:
        sessions: index of the session for which each counts (R,).
        tickers: index of the ticker of each (R,).
        novel: whether each repeats no earlier text (R,).
        shape: numbers of sessions and tickers, (T, N).
    """

    sessions: Ints
    tickers: Ints
    novel: Flags
    shape: tuple[int, int]


def aggregate(
    answers: PlacedAnswers, polarity: NDArray[np.float64], confidence: NDArray[np.float64], settings: SignalSettings
) -> SignalPanel:
    """Aggregate answers by session and ticker.

    The signal of a session is Σ wᵢ pᵢ / (k + Σ wᵢ) over all novel texts up to its close, with the weights
    wᵢ = confidence · ½^(age in sessions / half-life) and the weight k of a neutral prior text.

    Args:
        answers: sessions and tickers of the answers.
        polarity: −1 to 1 (R,).
        confidence: 0 to 1 (R,).
        settings: half-life, prior weight and age at which a signal ends.
    """
    cells = answers.sessions * answers.shape[1] + answers.tickers

    def total(values: NDArray[np.float64] | None = None) -> Matrix:
        sums = np.bincount(cells, weights=values, minlength=answers.shape[0] * answers.shape[1])
        return sums.astype(float, copy=False).reshape(answers.shape)

    weights = confidence * answers.novel
    count, weight, weighted = total(), total(weights), total(weights * polarity)
    mean = _divide(weighted, weight)
    deviations = polarity - np.nan_to_num(mean).ravel()[cells]
    return SignalPanel(
        count=count,
        novel=total(answers.novel.astype(float)),
        mean=mean,
        dispersion=np.sqrt(_divide(total(weights * deviations**2), weight)),
        signal=_decay(weighted, weight, count > 0, settings),
    )


def _divide(numerator: Matrix, denominator: Matrix) -> Matrix:
    result = np.full_like(numerator, np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result


def _decay(weighted: Matrix, weight: Matrix, has_text: Flags, settings: SignalSettings) -> Matrix:
    factor = 0.5 ** (1 / settings.half_life)
    signal = np.full_like(weighted, np.nan)
    sums, weights, age = np.zeros(weighted.shape[1]), np.zeros(weighted.shape[1]), np.full(weighted.shape[1], np.inf)
    for session in range(len(weighted)):
        sums, weights = sums * factor + weighted[session], weights * factor + weight[session]
        age = np.where(has_text[session], 0, age + 1)
        defined = (age <= settings.max_age) & (weights + settings.prior_weight > 0)
        np.divide(sums, weights + settings.prior_weight, out=signal[session], where=defined)
    return signal


def signal_table(panel: SignalPanel, sessions: Sessions, tickers: pd.Index) -> pd.DataFrame:
    """Return the signals as rows by session and ticker, where there is one.

    The columns are ticker, session (date), known_at (its close in UTC, before which the signal is not complete),
    signal, mean, texts, novel, novelty (share of texts that are new) and dispersion.
    """
    rows, columns = np.nonzero(np.isfinite(panel.signal) | (panel.count > 0))
    count, novel = panel.count[rows, columns], panel.novel[rows, columns]
    return pd.DataFrame(
        {
            "ticker": tickers.take(columns),
            "session": sessions.dates.take(rows),
            "known_at": sessions.closes.take(rows),
            "signal": panel.signal[rows, columns],
            "mean": panel.mean[rows, columns],
            "texts": count.astype(np.int64),
            "novel": novel.astype(np.int64),
            "novelty": np.divide(novel, count, out=np.full(len(count), np.nan), where=count > 0),
            "dispersion": panel.dispersion[rows, columns],
        }
    )
