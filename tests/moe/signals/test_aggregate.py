"""Claims about the aggregation: weights, near-duplicates, decay, and rows of the table."""

import numpy as np
import pandas as pd
import pytest
from signal_files import sessions_of

from moe.signals.aggregate import PlacedAnswers, SignalPanel, aggregate, signal_table
from moe.signals.settings import SignalSettings


def panel_of(rows: list[tuple[int, float, float, bool]], sessions: int = 6, **settings: float) -> SignalPanel:
    """Panel of one ticker from rows of session, polarity, confidence and novelty."""
    session, polarity, confidence, novel = (np.array(column) for column in zip(*rows, strict=True))
    placed = PlacedAnswers(session, np.zeros(len(rows), int), novel.astype(bool), (sessions, 1))
    return aggregate(placed, polarity.astype(float), confidence.astype(float), SignalSettings(**settings))


def test_mean_is_weighted_by_confidence() -> None:
    panel = panel_of([(0, 1.0, 0.9, True), (0, -1.0, 0.3, True)])
    assert panel.mean[0, 0] == pytest.approx((0.9 - 0.3) / 1.2)
    assert panel.dispersion[0, 0] == pytest.approx(np.sqrt(1 - 0.5**2))
    assert panel.count[0, 0] == 2


def test_texts_of_equal_polarity_have_no_dispersion() -> None:
    panel = panel_of([(0, 0.3, weight, True) for weight in (0.9, 0.8, 0.33)])
    assert panel.dispersion[0, 0] == pytest.approx(0, abs=1e-15)  # a difference of squares leaves 1e-9


def test_near_duplicates_are_counted_and_have_no_weight() -> None:
    panel = panel_of([(0, 1.0, 0.9, True), (0, -1.0, 0.9, False)])
    assert (panel.count[0, 0], panel.novel[0, 0], panel.mean[0, 0]) == (2, 1, 1)


def test_signal_halves_its_weight_over_the_half_life_and_ends() -> None:
    panel = panel_of([(0, 1.0, 0.8, True), (2, -1.0, 0.8, True)], half_life=2, prior_weight=1, max_age=2)
    halved = 0.8 * 0.5
    assert panel.signal[0, 0] == pytest.approx(0.8 / 1.8)
    assert panel.signal[2, 0] == pytest.approx((halved - 0.8) / (1 + halved + 0.8))
    assert np.isfinite(panel.signal[:, 0]).tolist() == [True, True, True, True, True, False]
    assert np.isfinite(panel.mean[:, 0]).tolist() == [True, False, True, False, False, False]


def test_signal_without_a_prior_is_the_decayed_mean() -> None:
    panel = panel_of([(0, 0.5, 0.8, True)], prior_weight=0)
    assert panel.signal[0, 0] == pytest.approx(0.5)
    assert np.isnan(panel_of([(0, 0.5, 0.0, True)], prior_weight=0).signal[0, 0])


def test_signal_does_not_depend_on_later_texts() -> None:
    early = [(0, 1.0, 0.8, True), (1, 0.5, 0.8, True)]
    later = [*early, (3, -1.0, 0.9, True)]
    assert np.array_equal(panel_of(early).signal[:3], panel_of(later).signal[:3])


def test_table_has_a_row_for_each_ticker_and_session_with_a_signal() -> None:
    sessions = sessions_of()
    panel = panel_of([(0, 1.0, 0.9, True), (0, 1.0, 0.9, False)], sessions=len(sessions), max_age=1)
    table = signal_table(panel, sessions, pd.Index(["A"]))
    assert table["ticker"].tolist() == ["A", "A"]
    assert table["novelty"].tolist()[0] == 0.5
    assert table["texts"].tolist() == [2, 0]
    assert (table["known_at"].dt.tz_convert("America/New_York").dt.hour == 16).all()
