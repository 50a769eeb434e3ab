"""Claims about the temperature: it is recovered from many rows, and stays 1 if few rows do not support another."""

from math import inf

import numpy as np
import pytest
from logits import overconfident

from moe.evaluation.calibration.temperature import (
    MAX_TEMPERATURE,
    MIN_TEMPERATURE,
    TaskLogits,
    choose_temperature,
    fit_temperature,
    held_out_gain,
)


def test_temperature_that_scaled_the_logits_is_recovered() -> None:
    assert fit_temperature(overconfident(8000)) == pytest.approx(2.5, rel=0.06)
    assert fit_temperature(overconfident(8000, 0.4)) == pytest.approx(0.4, rel=0.06)


def test_no_nearby_temperature_has_a_lower_log_loss() -> None:
    task = overconfident(500)
    best = fit_temperature(task, prior_width=inf)
    assert all(task.losses(best).mean() <= task.losses(best * factor).mean() for factor in (0.9, 0.99, 1.01, 1.1))


def test_temperature_without_prior_equals_that_of_scikit_learn() -> None:
    pytest.importorskip("sklearn", minversion="1.8")
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Identity(ClassifierMixin, BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.unique(y)
            return self

        def decision_function(self, x):
            return x

        def predict(self, x):
            return x.argmax(1)

    task = overconfident(400)
    classifier = CalibratedClassifierCV(FrozenEstimator(Identity().fit(task.logits, task.true)), method="temperature")
    expected = classifier.fit(task.logits, task.true).predict_proba(task.logits)
    np.testing.assert_allclose(task.probabilities(fit_temperature(task, inf)), expected, atol=1e-4)


def test_model_worse_than_chance_gets_the_maximal_temperature() -> None:
    task = overconfident(300)
    assert fit_temperature(TaskLogits(-task.logits, task.true), inf) == pytest.approx(MAX_TEMPERATURE, rel=0.01)


def test_prior_shrinks_towards_1_and_less_so_with_more_rows() -> None:
    shares = []
    for rows in (40, 400, 4000):
        task = overconfident(rows)
        shares.append(np.log(fit_temperature(task)) / np.log(fit_temperature(task, inf)))
    assert 0.4 < shares[0] < shares[1] < shares[2] < 1
    assert shares[2] > 0.99


def test_temperature_of_calibrated_logits_stays_1_in_nine_of_ten_draws_of_100_rows() -> None:
    chosen = [choose_temperature(overconfident(100, 1.0, seed)) for seed in range(100)]
    assert sum(temperature == 1 for temperature, _ in chosen) >= 90
    assert all((remark is None) == (temperature != 1) for temperature, remark in chosen)


def test_temperature_of_overconfident_logits_is_recovered_from_1000_rows_within_a_tenth() -> None:
    chosen = [choose_temperature(overconfident(1000, 2.5, seed))[0] for seed in range(20)]
    assert sum(2.25 < temperature < 2.75 for temperature in chosen) >= 18
    assert np.mean(chosen) == pytest.approx(2.5, rel=0.05)


def test_chosen_temperature_rarely_raises_the_log_loss_of_unseen_rows() -> None:
    unseen = overconfident(4000, 1.2, seed=1000)
    worse = dict.fromkeys(("fitted", "chosen"), 0)
    for seed in range(60):
        task = overconfident(60, 1.2, seed)
        for name, temperature in (("fitted", fit_temperature(task, inf)), ("chosen", choose_temperature(task)[0])):
            worse[name] += unseen.losses(temperature).mean() > unseen.losses(1.0).mean()
    assert worse["chosen"] <= 6 < worse["fitted"]


def test_remark_states_the_gain_on_held_out_folds_and_its_error() -> None:
    task = overconfident(100, 1.0)
    temperature, remark = choose_temperature(task)
    gain = held_out_gain(task)
    assert temperature == 1
    assert remark is not None
    assert f"by {abs(gain.mean):.4f}, with a standard error of {gain.error:.4f}" in remark


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("temperature", [0.05, 0.5, 1.0, 3.0, 20.0])
def test_temperature_changes_no_label_and_orders_confidences_from_sharp_to_flat(seed: int, temperature: float) -> None:
    random = np.random.default_rng(seed)
    task = TaskLogits(5 * random.normal(size=(40, 4)), random.integers(0, 4, 40))
    probabilities = task.probabilities(temperature)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    assert (probabilities.argmax(1) == task.logits.argmax(1)).all()
    assert ((task.confidence(temperature) >= 0.25 - 1e-9) & (task.confidence(temperature) <= 1)).all()
    assert (task.confidence(temperature * 1.5) <= task.confidence(temperature) + 1e-12).all()
    if temperature >= 1:  # below, some probabilities are 0
        expected = -np.log(probabilities[np.arange(40), task.true])
        np.testing.assert_allclose(task.losses(temperature), expected, rtol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_fitted_temperature_is_within_its_bounds_and_ignores_a_constant_per_row(seed: int) -> None:
    random = np.random.default_rng(seed)
    task = TaskLogits((10.0 ** random.uniform(-2, 2)) * random.normal(size=(60, 3)), random.integers(0, 3, 60))
    temperature = fit_temperature(task)
    assert MIN_TEMPERATURE <= temperature <= MAX_TEMPERATURE
    shifted = TaskLogits(task.logits + random.normal(size=(60, 1)), task.true)
    assert fit_temperature(shifted) == pytest.approx(temperature, rel=1e-4)
    assert held_out_gain(shifted).mean == pytest.approx(held_out_gain(task).mean, abs=1e-2)


def test_rows_of_a_mask_have_their_own_logits() -> None:
    task = overconfident(50)
    mask = np.arange(50) % 2 == 0
    np.testing.assert_array_equal(task[mask].logits, task.logits[::2])
    assert task[mask].correct.tolist() == task.correct[::2].tolist()
