"""Claims about intervals and tests, against scikit-learn, scipy, and numbers worked out by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import f1_score

from moe.bootstrap import TaskPredictions, bootstrap_differences, bootstrap_intervals, mcnemar, wilson_interval
from moe.evaluation.metrics import classification

NAMES = ("a", "b", "c")


def made_up(rows: int, right: float, seed: int) -> tuple[list[str], list[str]]:
    """True and said labels, so many of them right."""
    random = np.random.default_rng(seed)
    true = random.choice(NAMES, rows, p=[0.6, 0.3, 0.1])
    said = np.where(random.random(rows) < right, true, random.choice(NAMES, rows))
    return true.tolist(), said.tolist()


def answers(rows: int = 300, right: float = 0.7, seed: int = 1) -> TaskPredictions:
    return TaskPredictions.from_labels(*made_up(rows, right, seed), NAMES)


def beside(one: TaskPredictions, *said: np.ndarray) -> TaskPredictions:
    """Other answers to the same rows."""
    return TaskPredictions(one.true, np.stack(said), one.classes)


def test_figures_are_those_of_the_evaluation() -> None:
    true, said = made_up(200, 0.6, 3)
    said[:5] = ["hawkish"] * 5
    report = classification(true, said, NAMES)
    for name, one in bootstrap_intervals([TaskPredictions.from_labels(true, said, NAMES)]).items():
        assert one.value == pytest.approx(report[name])
        assert one.low < one.value < one.high


@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_drawing_cells_gives_the_interval_that_drawing_rows_gives(name: str) -> None:
    one = answers()

    def figure(true: Any, said: Any) -> float:
        return np.mean(true == said) if name == "accuracy" else f1_score(true, said, average="macro")

    slow = bootstrap(
        (one.true, one.said[0]), figure, paired=True, n_resamples=1500, vectorized=False, method="percentile", rng=5
    ).confidence_interval
    fast = bootstrap_intervals([one])[name]
    assert fast.ends == pytest.approx([slow.low, slow.high], abs=0.008)


def test_an_interval_of_accuracy_is_as_wide_as_the_binomial_says_and_narrows_with_rows() -> None:
    for rows in (100, 10_000):
        one = bootstrap_intervals([answers(rows)])["accuracy"]
        assert (one.high - one.low) / 2 == pytest.approx(
            1.96 * np.sqrt(one.value * (1 - one.value) / rows), rel=0.1, abs=1 / rows
        )


def test_the_same_rows_give_the_same_interval_and_a_higher_level_a_wider_one() -> None:
    assert bootstrap_intervals([answers()]) == bootstrap_intervals([answers()])
    narrow, wide = (bootstrap_intervals([answers()], level)["macro_f1"] for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_the_mean_over_tasks_is_surer_than_one_task_and_lies_between_them() -> None:
    tasks = [answers(seed=1, right=0.6), answers(seed=2, right=0.9)]
    mean, (low, high) = bootstrap_intervals(tasks)["macro_f1"], (bootstrap_intervals([one])["macro_f1"] for one in tasks)
    assert mean.value == pytest.approx((low.value + high.value) / 2)
    assert mean.high - mean.low < low.high - low.low


def test_seeds_that_say_the_same_are_no_more_rows() -> None:
    one = answers()
    assert bootstrap_intervals([beside(one, one.said[0], one.said[0])])["macro_f1"].ends == bootstrap_intervals([one])["macro_f1"].ends


def test_macro_f1_of_seeds_is_the_mean_of_theirs_not_of_their_rows() -> None:
    one, other = answers(seed=1), answers(seed=1, right=0.4)
    both = beside(one, one.said[0], other.said[0])
    alone = [bootstrap_intervals([beside(one, said)])["macro_f1"].value for said in both.said]
    assert bootstrap_intervals([both])["macro_f1"].value == pytest.approx(np.mean(alone))


def test_a_model_less_itself_is_none_and_a_better_one_is_not() -> None:
    one = answers()
    same = bootstrap_differences([one], [one])["accuracy"]
    assert same.ends == [0.0, 0.0]
    assert same.holds_zero
    better = beside(one, np.where(np.arange(len(one.true)) % 4, one.true, one.said[0]))
    told = bootstrap_differences([better], [one])
    assert not any(told[name].holds_zero for name in told)
    assert bootstrap_differences([one], [better])["macro_f1"].value == pytest.approx(-told["macro_f1"].value)


def test_a_paired_difference_is_surer_than_two_intervals_apart() -> None:
    one = answers(400)
    other = one.said.copy()
    other[0, :10] = one.true[:10]
    told, alone = bootstrap_differences([one], [beside(one, *other)])["accuracy"], bootstrap_intervals([one])["accuracy"]
    assert told.high - told.low < (alone.high - alone.low) / 2


def test_what_was_right_is_enough_for_accuracy() -> None:
    one = answers()
    right = (one.said == one.true).astype(int).tolist()
    assert bootstrap_intervals([TaskPredictions.from_correct(right)])["accuracy"].ends == pytest.approx(
        bootstrap_intervals([one])["accuracy"].ends, abs=0.005
    )


def test_mcnemar_by_hand() -> None:
    ours = np.array([1] * 5 + [0] + [1] * 4, dtype=bool)
    theirs = np.array([0] * 5 + [1] + [1] * 4, dtype=bool)
    assert mcnemar(ours, theirs) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(ours, ours) == 1.0


def test_a_share_has_an_interval_even_when_all_are_right() -> None:
    one = wilson_interval(30, 30)
    assert (one.value, one.high) == (1.0, pytest.approx(1.0))
    assert one.low == pytest.approx(30 / (30 + 1.96**2), abs=0.001)
