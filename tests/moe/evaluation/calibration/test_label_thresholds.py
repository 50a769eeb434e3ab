"""Thresholds of labels: F1 is at its largest, rare labels and noise leave the default."""

import numpy as np
import pytest
from sklearn.metrics import f1_score

from moe.evaluation.calibration.label_thresholds import MIN_POSITIVE_ROWS, best_threshold, choose_thresholds


def test_best_threshold_has_the_largest_f1_of_all_thresholds() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        probabilities = random.random(40).round(1)  # with equal values
        truth = random.random(40) < probabilities
        threshold = best_threshold(probabilities, truth)
        candidates = [0.0, *np.unique(probabilities), 1.1]
        best = max(f1_score(truth, probabilities >= limit, zero_division=0) for limit in candidates)
        assert f1_score(truth, probabilities >= threshold) == pytest.approx(best)


def test_threshold_of_a_rare_label_falls_below_one_half() -> None:
    random = np.random.default_rng(1)
    truth = random.random(2000) < 0.1
    probabilities = np.where(truth, random.uniform(0.15, 0.4, 2000), random.uniform(0.0, 0.25, 2000))
    (threshold,) = choose_thresholds(probabilities[:, None], truth[:, None])
    assert 0.15 < threshold < 0.3
    assert f1_score(truth, probabilities >= 0.5) == 0.0
    assert f1_score(truth, probabilities >= threshold) > 0.7


def test_threshold_stays_at_one_half_for_few_rows_of_a_label_and_without_any() -> None:
    truth = np.zeros((200, 2), dtype=bool)
    truth[: MIN_POSITIVE_ROWS - 1, 0] = True
    assert choose_thresholds(np.full((200, 2), 0.2), truth).tolist() == [0.5, 0.5]
    assert best_threshold(np.array([0.2, 0.3]), np.array([False, False])) == 0.5


def test_threshold_that_only_fits_noise_is_not_used() -> None:
    random = np.random.default_rng(2)
    truth = random.random((300, 1)) < 0.5
    probabilities = np.where(truth, 0.9, 0.1)
    assert choose_thresholds(probabilities, truth).tolist() == [0.5]  # F1 is 1 already
