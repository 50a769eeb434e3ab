"""Claims about the evaluation: no look-ahead, exact correlations, costs, the null, events, words for null results."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

from moe.signals.aggregate import SignalPanel
from moe.signals.correlation import RankedRows, ic_series, newey_west, time_shifts
from moe.signals.evaluate import compare_sources, evaluate_source, evaluation_notes, write_verdict
from moe.signals.events import event_curves, surprise_scores
from moe.signals.prices import Matrix, forward_returns
from moe.signals.settings import SignalSettings
from moe.signals.spread import quantile_groups, spread_series

SHAPE = (120, 12)
SETTINGS = SignalSettings(horizons=(1, 5), max_age=5, resamples=200)


def random_walks(seed: int = 0) -> tuple[Matrix, Matrix]:
    """Returns of each session (T, N), and the closes."""
    returns = np.random.default_rng(seed).normal(0, 0.02, SHAPE)
    return returns, 100 * np.cumprod(1 + returns, axis=0)


def panel_of(signal: Matrix, mean: Matrix | None = None) -> SignalPanel:
    """Panel with a text a ticker and session."""
    ones = np.ones_like(signal)
    return SignalPanel(
        count=ones, novel=ones, mean=signal if mean is None else mean, dispersion=0 * ones, signal=signal
    )


def evaluated(signal: Matrix, closes: Matrix, settings: SignalSettings = SETTINGS):
    return evaluate_source("answers", panel_of(signal), closes, settings)


def test_forward_returns_start_at_the_close_of_the_session() -> None:
    closes = np.array([[1.0], [2.0], [3.0], [6.0]])
    assert np.allclose(forward_returns(closes, 1)[:, 0], [1, 0.5, 1, np.nan], equal_nan=True)
    assert np.allclose(forward_returns(closes, 2)[:, 0], [2, 2, np.nan, np.nan], equal_nan=True)
    assert np.allclose(forward_returns(closes, 1, 1)[:, 0], [0.5, 1, np.nan, np.nan], equal_nan=True)
    assert np.isnan(forward_returns(closes, 9)).all()


def test_signal_of_the_next_return_is_found() -> None:
    returns, closes = random_walks()
    signal = np.roll(returns, -1, axis=0)  # of the session after
    row = evaluated(signal, closes).result.ic[0]
    assert row.mean == pytest.approx(1)
    assert row.sessions == SHAPE[0] - 1


def test_return_of_the_session_itself_and_of_those_before_does_not_enter() -> None:
    returns, closes = random_walks()
    noise = np.random.default_rng(1).normal(0, 1, SHAPE)
    before = evaluated(noise, closes).result
    for back in (0, 1, 3):
        row = evaluated(np.roll(returns, back, axis=0), closes).result.ic[0]
        assert abs(row.mean or 0) < 0.1, back
    # a change of the prices up to a session's close changes nothing of its evaluation
    changed = closes.copy()
    changed[:60] *= np.random.default_rng(2).uniform(0.5, 2, (60, SHAPE[1]))
    after = forward_returns(changed, 1)
    assert np.array_equal(after[60:], forward_returns(closes, 1)[60:], equal_nan=True)
    assert before.ic[0].sessions == SHAPE[0] - 1


def test_delayed_entry_leaves_out_the_first_return() -> None:
    returns, closes = random_walks()
    settings = SETTINGS.model_copy(update={"delay": 1})
    assert abs(evaluated(np.roll(returns, -1, axis=0), closes, settings).result.ic[0].mean or 0) < 0.1
    assert evaluated(np.roll(returns, -2, axis=0), closes, settings).result.ic[0].mean == pytest.approx(1)


def test_ic_is_spearman_correlation_of_the_tickers_with_both() -> None:
    rng = np.random.default_rng(3)
    signal, returns = rng.integers(0, 4, (30, 9)).astype(float), rng.normal(0, 1, (30, 9))
    signal[rng.random(signal.shape) < 0.2] = np.nan
    returns[rng.random(returns.shape) < 0.2] = np.nan
    series = ic_series(RankedRows.of(signal), RankedRows.of(returns), 5)
    for row, value in enumerate(series):
        both = np.isfinite(signal[row]) & np.isfinite(returns[row])
        expected = spearmanr(signal[row][both], returns[row][both]).statistic if both.sum() >= 5 else np.nan
        assert value == pytest.approx(expected, nan_ok=True)
    assert np.isnan(series).any()
    assert np.isfinite(series).any()


def test_newey_west_error_grows_with_autocorrelation() -> None:
    rng = np.random.default_rng(4)
    independent = rng.normal(0.1, 1, 400)
    persistent = np.repeat(rng.normal(0.1, 1, 40), 10)
    plain = persistent.mean() / (persistent.std(ddof=1) / np.sqrt(400))
    tested = newey_west(persistent, 20)
    assert tested.t is not None
    assert abs(tested.t) < abs(plain) / 2
    assert newey_west(independent).t == pytest.approx(independent.mean() / (independent.std() / 20), rel=0.2)
    assert newey_west(np.full(50, 0.3)).t is None
    assert newey_west(np.array([np.nan, 1.0])).mean == 1
    assert newey_west(np.array([np.nan])).mean is None


def test_newey_west_rarely_finds_a_mean_in_overlapping_returns_without_one() -> None:
    rng, rejections = np.random.default_rng(12), 0
    for _ in range(200):
        sums = np.convolve(rng.normal(size=319), np.ones(20), "valid")  # 300 returns over 20 sessions each
        test = newey_west(sums, 20)
        assert test.p is not None
        rejections += test.p < 0.05
    assert rejections <= 25  # with 19 lags and a normal distribution it would be 30
    assert newey_west(np.arange(99.0), 20).t is None
    assert newey_west(np.arange(100.0), 20).t is not None


def test_shifts_are_longer_than_signals_and_returns_last() -> None:
    shifts = time_shifts(120, SETTINGS)
    assert min(shifts) > SETTINGS.max_age + SETTINGS.horizons[-1]
    assert max(shifts) < 120 - SETTINGS.max_age - SETTINGS.horizons[-1]
    assert time_shifts(20, SETTINGS) == []


def test_null_of_shifted_times_is_given_for_every_source() -> None:
    _, closes = random_walks()
    for name in ("answers", "lexicon"):
        source = evaluate_source(name, panel_of(np.random.default_rng(3).normal(0, 1, SHAPE)), closes, SETTINGS)
        assert all(row.null is not None and row.null[0] < row.null[1] for row in source.result.ic)


def test_null_of_tickers_that_always_rise_is_not_taken_for_timing() -> None:
    rng = np.random.default_rng(5)
    drift = np.linspace(-0.01, 0.01, SHAPE[1])
    closes = 100 * np.cumprod(1 + rng.normal(0, 0.005, SHAPE) + drift, axis=0)
    signal = drift * 100 + rng.normal(0, 0.01, SHAPE)
    result = evaluated(signal, closes).result
    row = result.ic[0]
    assert row.t is not None
    assert row.t > 3
    assert row.null_p is not None
    assert row.null_p > 0.05
    assert next(write_verdict(result, None)).startswith("No evidence")


def test_quantiles_do_not_depend_on_later_prices() -> None:
    _, closes = random_walks()
    signal = np.random.default_rng(6).normal(0, 1, SHAPE)
    missing = closes.copy()
    missing[61, :4] = np.nan
    groups = [quantile_groups(signal, np.isfinite(values), SETTINGS) for values in (closes, missing)]
    assert np.array_equal(groups[0][60], groups[1][60])
    assert (groups[1][61, :4] == 0).all()
    assert set(groups[0].ravel()) == {1, 2, 3, 4, 5}


def test_spread_pays_for_what_it_trades() -> None:
    returns, closes = random_walks()
    constant = np.tile(np.arange(SHAPE[1], dtype=float), (SHAPE[0], 1))
    series = spread_series(constant, closes, SETTINGS)
    assert series.turnover[0] == pytest.approx(2)  # opens both sides
    assert np.allclose(series.turnover[1:-1], 0)
    assert np.isnan(series.gross[-1])
    alternating = constant * np.where(np.arange(SHAPE[0]) % 2, -1, 1)[:, None]
    series = spread_series(alternating, closes, SETTINGS.model_copy(update={"cost_bp": 10}))
    assert np.allclose(series.turnover[1:-1], 4)
    assert np.allclose((series.gross - series.net)[1:-1], 4 * 10 / 1e4)
    top, bottom = returns[1:, -2:].mean(1), returns[1:, :2].mean(1)
    assert np.allclose(spread_series(constant, closes, SETTINGS).gross[:-1], top - bottom)


def test_spread_pays_for_the_exit_if_no_position_follows() -> None:
    _, closes = random_walks()
    constant = np.tile(np.arange(SHAPE[1], dtype=float), (SHAPE[0], 1))
    constant[50:53] = np.nan
    series = spread_series(constant, closes, SETTINGS)
    assert np.isnan(series.net[50:53]).all()
    assert series.turnover[[49, 53]] == pytest.approx([2, 2])
    assert np.nansum(series.turnover) == pytest.approx(6)  # opened twice, closed once


def test_surprises_compare_with_earlier_sessions_only() -> None:
    mean = np.random.default_rng(7).normal(0, 1, (40, 2))
    mean[::3, 1] = np.nan
    scores = surprise_scores(mean, 10)
    later = mean.copy()
    later[30:] = 5
    assert np.array_equal(scores[:30], surprise_scores(later, 10)[:30], equal_nan=True)
    history = mean[20:30, 0]
    assert scores[30, 0] == pytest.approx((mean[30, 0] - history.mean()) / history.std(ddof=1))
    assert np.isnan(scores[np.isnan(mean)]).all()
    assert np.isnan(scores[:5]).all()


def test_event_curves_show_a_planted_reaction_within_their_bands() -> None:
    returns, _ = random_walks()
    mean = np.random.default_rng(8).normal(0, 0.1, SHAPE)
    rows, columns = np.arange(30, 100, 3), np.arange(24) % SHAPE[1]
    mean[rows, columns] = 3
    returns[rows + 1, columns] += 0.05
    curves = event_curves(panel_of(mean, mean), 100 * np.cumprod(1 + returns, axis=0), SETTINGS)
    (curve,) = [curve for curve in curves if curve.direction == "positive"]
    at = curve.offsets.index(0)
    assert curve.mean[at] == curve.low[at] == curve.high[at] == 0
    assert curve.low[at + 1] > 50
    assert curve.mean[at - 1] < 200
    assert all(low <= middle <= high for low, middle, high in zip(curve.low, curve.mean, curve.high, strict=True))


def test_event_bands_hold_the_truth_where_surprises_share_returns() -> None:
    rng, held = np.random.default_rng(13), 0
    for _ in range(100):
        closes = 100 * np.cumprod(1 + rng.normal(0, 0.02, (200, 12)), axis=0)
        mean = rng.normal(0, 0.01, closes.shape)
        for start in rng.integers(30, 180, 12):  # four surprises in a row, whose curves have returns in common
            mean[start : start + 4, rng.integers(12)] = 3
        curve = event_curves(panel_of(mean, mean), closes, SETTINGS)[0]
        held += curve.low[-1] <= 0 <= curve.high[-1]
    assert held >= 85  # bands that draw single sessions hold it in 81


def test_event_study_needs_surprises_in_ten_sessions() -> None:
    _, closes = random_walks()
    mean = np.where(np.arange(SHAPE[0]) % 2, 0.01, -0.01)[:, None] * np.ones(SHAPE)
    for sessions, curves in ((9, 0), (10, 1)):
        surprising = mean.copy()
        surprising[30 + 8 * np.arange(sessions), :3] = 3
        assert len(event_curves(panel_of(surprising, surprising), closes, SETTINGS)) == curves


def test_null_result_is_stated_as_one_and_a_relation_as_a_relation() -> None:
    returns, closes = random_walks()
    noise = evaluated(np.random.default_rng(9).normal(0, 1, SHAPE), closes)
    sentences = list(write_verdict(noise.result, compare_sources(noise, noise)))
    assert sentences[0].startswith("No evidence that the signal is related to the returns of the next session")
    assert sentences[1].startswith("No evidence that the spread of the quantiles earns more than costs")
    for sign, word in ((1, "positively"), (-1, "negatively")):
        signal = sign * np.roll(returns, -1, axis=0) + np.random.default_rng(11).normal(0, 0.01, SHAPE)
        related = evaluated(signal, closes)
        assert word in next(write_verdict(related.result, None))
    difference = compare_sources(evaluated(np.roll(returns, -1, axis=0), closes), noise)
    assert "a significant difference" in list(write_verdict(noise.result, difference))[-1]


def test_few_tickers_have_no_verdict() -> None:
    _, closes = random_walks()
    source = evaluated(closes[:, :2], closes[:, :2])
    assert next(write_verdict(source.result, None)).startswith("No verdict")
    assert source.result.spread.gross is None
    assert any("min_tickers" in note for note in evaluation_notes(source, 2, SETTINGS))


def test_ranked_rows_rank_as_pandas() -> None:
    values = np.random.default_rng(10).integers(0, 3, (5, 6)).astype(float)
    assert np.array_equal(RankedRows.of(values).ranks, pd.DataFrame(values).rank(axis=1).to_numpy())
