"""Claims about intervals and tests, against scikit-learn, scipy and values computed by hand."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, norm
from sklearn.metrics import accuracy_score, f1_score

from moe.bootstrap import (
    BINS,
    TaskPredictions,
    bootstrap_differences,
    bootstrap_intervals,
    confidence_bin,
    mcnemar,
    wilson_interval,
)
from moe.evaluation.metrics import classification

NAMES = ("a", "b", "c")


def random_labels(rows: int, accuracy: float, seed: int) -> tuple[list[str], list[str]]:
    """True and predicted labels; predictions are copied from the true labels with probability `accuracy`."""
    random = np.random.default_rng(seed)
    true = random.choice(NAMES, rows, p=[0.6, 0.3, 0.1])
    predicted = np.where(random.random(rows) < accuracy, true, random.choice(NAMES, rows))
    return true.tolist(), predicted.tolist()


def random_predictions(rows: int = 300, accuracy: float = 0.7, seed: int = 1) -> TaskPredictions:
    true, predicted = random_labels(rows, accuracy, seed)
    return TaskPredictions.from_labels(true, predicted, NAMES)


def with_predictions(task: TaskPredictions, *predicted: np.ndarray) -> TaskPredictions:
    """Other predictions for the same rows, of one seed each."""
    return TaskPredictions(task.true, np.stack(predicted), task.classes)


def test_interval_values_equal_the_classification_metrics() -> None:
    true, predicted = random_labels(200, 0.6, 3)
    predicted[:5] = ["hawkish"] * 5
    report = classification(true, predicted, NAMES)
    for name, interval in bootstrap_intervals([TaskPredictions.from_labels(true, predicted, NAMES)]).items():
        assert interval.value == pytest.approx(report.value(name))
        assert interval.low < interval.value < interval.high


@pytest.mark.parametrize("name", ["accuracy", "macro_f1"])
def test_resampling_cells_gives_the_same_interval_as_resampling_rows(name: str) -> None:
    task = random_predictions()

    def metric(true: Any, predicted: Any) -> float:
        return np.mean(true == predicted) if name == "accuracy" else f1_score(true, predicted, average="macro")

    by_rows = bootstrap(
        (task.true, task.predicted[0]),
        metric,
        paired=True,
        n_resamples=1500,
        vectorized=False,
        method="percentile",
        rng=5,
    ).confidence_interval
    by_cells = bootstrap_intervals([task])[name]
    assert by_cells.bounds == pytest.approx([by_rows.low, by_rows.high], abs=0.008)


def test_accuracy_interval_has_the_binomial_width_and_narrows_with_rows() -> None:
    for rows in (100, 10_000):
        interval = bootstrap_intervals([random_predictions(rows)])["accuracy"]
        assert (interval.high - interval.low) / 2 == pytest.approx(
            1.96 * np.sqrt(interval.value * (1 - interval.value) / rows), rel=0.1, abs=1 / rows
        )


def test_interval_is_reproducible_and_wider_at_a_higher_level() -> None:
    assert bootstrap_intervals([random_predictions()]) == bootstrap_intervals([random_predictions()])
    narrow, wide = (bootstrap_intervals([random_predictions()], level)["macro_f1"] for level in (0.5, 0.99))
    assert wide.low < narrow.low < narrow.high < wide.high


def test_mean_over_tasks_has_a_narrower_interval_and_lies_between_them() -> None:
    tasks = [random_predictions(seed=1, accuracy=0.6), random_predictions(seed=2, accuracy=0.9)]
    mean = bootstrap_intervals(tasks)["macro_f1"]
    low, high = (bootstrap_intervals([task])["macro_f1"] for task in tasks)
    assert mean.value == pytest.approx((low.value + high.value) / 2)
    assert mean.high - mean.low < low.high - low.low


def test_seeds_with_equal_predictions_do_not_count_as_more_rows() -> None:
    task = random_predictions()
    twice = with_predictions(task, task.predicted[0], task.predicted[0])
    assert bootstrap_intervals([twice])["macro_f1"].bounds == bootstrap_intervals([task])["macro_f1"].bounds


def test_macro_f1_of_seeds_is_the_mean_of_their_macro_f1() -> None:
    first, second = random_predictions(seed=1), random_predictions(seed=1, accuracy=0.4)
    both = with_predictions(first, first.predicted[0], second.predicted[0])
    single = [bootstrap_intervals([with_predictions(first, seed)])["macro_f1"].value for seed in both.predicted]
    assert bootstrap_intervals([both])["macro_f1"].value == pytest.approx(np.mean(single))


def test_difference_is_0_from_the_model_itself_and_significant_from_a_better_one() -> None:
    task = random_predictions()
    same = bootstrap_differences([task], [task])["accuracy"]
    assert same.bounds == [0.0, 0.0]
    assert same.contains_zero
    better = with_predictions(task, np.where(np.arange(len(task.true)) % 4, task.true, task.predicted[0]))
    gains = bootstrap_differences([better], [task])
    assert not any(gain.contains_zero for gain in gains.values())
    losses = bootstrap_differences([task], [better])
    assert losses["macro_f1"].value == pytest.approx(-gains["macro_f1"].value)


def test_paired_difference_has_a_narrower_interval_than_either_model() -> None:
    task = random_predictions(400)
    predicted = task.predicted.copy()
    predicted[0, :10] = task.true[:10]
    difference = bootstrap_differences([task], [with_predictions(task, *predicted)])["accuracy"]
    single = bootstrap_intervals([task])["accuracy"]
    assert difference.high - difference.low < (single.high - single.low) / 2


def test_correctness_of_the_rows_suffices_for_accuracy() -> None:
    task = random_predictions()
    correct = (task.predicted == task.true).astype(int).tolist()
    assert bootstrap_intervals([TaskPredictions.from_correct(correct)])["accuracy"].bounds == pytest.approx(
        bootstrap_intervals([task])["accuracy"].bounds, abs=0.005
    )


def test_mcnemar_by_hand() -> None:
    ours = np.array([1] * 5 + [0] + [1] * 4, dtype=bool)
    theirs = np.array([0] * 5 + [1] + [1] * 4, dtype=bool)
    assert mcnemar(ours, theirs) == pytest.approx(2 * (1 + 6) / 2**6)
    assert mcnemar(ours, ours) == 1.0


def test_wilson_interval_is_not_empty_if_all_rows_are_correct() -> None:
    interval = wilson_interval(30, 30)
    assert (interval.value, interval.high) == (1.0, pytest.approx(1.0))
    assert interval.low == pytest.approx(30 / (30 + 1.96**2), abs=0.001)


@pytest.mark.parametrize("seed", range(6))
def test_metrics_equal_scikit_learn_on_random_labels(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 6))
    names = [f"label{k}" for k in range(classes)]
    rows = int(random.integers(3, 150))
    true = random.choice(names[: max(1, classes - 1)], rows).tolist()  # the last label may be missing
    predicted = random.choice([*names, "outside"], rows).tolist()
    intervals = bootstrap_intervals([TaskPredictions.from_labels(true, predicted, names)])
    scores = {
        "accuracy": accuracy_score(true, predicted),
        "macro_f1": f1_score(true, predicted, labels=names, average="macro", zero_division=0),
        "weighted_f1": f1_score(true, predicted, labels=names, average="weighted", zero_division=0),
    }
    for name, score in scores.items():
        assert intervals[name].value == pytest.approx(score)
        assert 0 <= intervals[name].low <= intervals[name].high <= 1


@pytest.mark.parametrize(("rows", "accuracy"), [(200, 0.5), (1000, 0.8), (4000, 0.95)])
def test_accuracy_interval_has_the_bounds_of_the_binomial_distribution(rows: int, accuracy: float) -> None:
    correct = [[1] * round(rows * accuracy) + [0] * (rows - round(rows * accuracy))]
    interval = bootstrap_intervals([TaskPredictions.from_correct(correct)])["accuracy"]
    low, high = binom.ppf([0.025, 0.975], rows, accuracy) / rows
    step = 2 / rows
    assert interval.low == pytest.approx(low, abs=step)
    assert interval.high == pytest.approx(high, abs=step)


def test_interval_does_not_depend_on_the_order_of_the_rows() -> None:
    task = random_predictions(200)
    order = np.random.default_rng(0).permutation(200)
    shuffled = TaskPredictions(task.true[order], task.predicted[:, order], task.classes)
    assert bootstrap_intervals([shuffled]) == bootstrap_intervals([task])


def test_difference_changes_its_sign_with_the_order_of_the_models() -> None:
    ours, theirs = random_predictions(seed=1), random_predictions(seed=1)
    theirs = with_predictions(theirs, (theirs.predicted[0] + 1) % 3)
    forth, back = bootstrap_differences([ours], [theirs]), bootstrap_differences([theirs], [ours])
    for name, interval in forth.items():
        assert back[name].value == pytest.approx(-interval.value)
        assert back[name].low == pytest.approx(-interval.high, abs=0.02)
        assert not interval.contains_zero


@pytest.mark.parametrize("seed", range(5))
def test_mcnemar_equals_the_binomial_test_of_the_rows_that_differ(seed: int) -> None:
    random = np.random.default_rng(seed)
    ours, theirs = random.random(60) < 0.7, random.random(60) < 0.5
    first, second = int((ours & ~theirs).sum()), int((~ours & theirs).sum())
    tail = binom.cdf(min(first, second), first + second, 0.5)
    assert mcnemar(ours, theirs) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar(theirs, ours) == mcnemar(ours, theirs)
    assert mcnemar(ours, ours) == 1.0


@pytest.mark.parametrize(("correct", "rows"), [(0, 5), (1, 1), (7, 10), (950, 1000)])
def test_wilson_interval_solves_its_equation_and_lies_within_0_and_1(correct: int, rows: int) -> None:
    interval = wilson_interval(correct, rows)
    z = norm.ppf(0.975)
    for bound in (interval.low, interval.high):
        assert 0 <= bound <= 1
        deviation = abs(correct / rows - bound)
        assert deviation == pytest.approx(z * np.sqrt(bound * (1 - bound) / rows), abs=1e-6)
    wider = wilson_interval(correct, rows, 0.99)
    assert wider.low <= interval.low <= interval.value <= interval.high <= wider.high


def test_confidence_bins_cover_0_to_1_and_include_their_upper_edge() -> None:
    edges = np.arange(1, BINS + 1) / BINS
    assert confidence_bin(edges).tolist() == list(range(BINS))
    assert confidence_bin(np.array([0.0, 1e-9, 1.0])).tolist() == [0, 0, BINS - 1]
    assert confidence_bin(edges[:-1] + 1e-9).tolist() == list(range(1, BINS))


def test_unknown_labels_are_an_extra_class_that_is_never_right() -> None:
    task = TaskPredictions.from_labels(["a", "b"], ["a", "x"], ("a", "b"))
    assert (task.true.tolist(), task.predicted.tolist(), task.classes) == ([0, 1], [[0, 2]], 2)
    assert bootstrap_intervals([task])["accuracy"].value == 0.5


def test_resampled_seeds_change_nothing_if_all_seeds_predict_the_same() -> None:
    task = random_predictions()
    seeds = with_predictions(task, *[task.predicted[0]] * 4)
    expected = bootstrap_intervals([seeds])
    for name, interval in bootstrap_intervals([seeds], resample_seeds=True).items():
        assert interval.bounds == pytest.approx(expected[name].bounds)


def test_resampled_seeds_widen_the_interval_if_seeds_differ() -> None:
    task, rows = random_predictions(rows=2000), np.arange(2000)
    good, bad = task.true, (task.true + (rows % 2)) % 3
    seeds = with_predictions(task, good, good, bad, bad)
    fixed, both = (bootstrap_intervals([seeds], resample_seeds=flag)["accuracy"] for flag in (False, True))
    assert both.value == fixed.value == 0.75
    assert both.high - both.low > 3 * (fixed.high - fixed.low)
    assert both.low == pytest.approx(0.5, abs=0.05), "a resample may hold only bad seeds"


def test_resampled_differences_pair_the_seeds() -> None:
    task, rows = random_predictions(rows=2000), np.arange(2000)
    good, bad = task.true, (task.true + (rows % 2)) % 3
    ours = with_predictions(task, good, bad)
    assert bootstrap_differences([ours], [ours], resample_seeds=True)["accuracy"].bounds == [0.0, 0.0]
    swapped = with_predictions(task, bad, good)
    difference = bootstrap_differences([ours], [swapped], resample_seeds=True)["accuracy"]
    assert difference.low < -0.45 < 0.45 < difference.high
    with pytest.raises(AssertionError, match="same seeds"):
        bootstrap_differences([ours], [task], resample_seeds=True)


def test_metrics_of_sets_equal_scikit_learn() -> None:
    random, labels = np.random.default_rng(0), ("a", "b", "c")
    sides = [random.random((60, 3)) < 0.4 for _ in range(2)]
    true, predicted = ([";".join(np.array(labels)[row]) for row in side] for side in sides)
    intervals = bootstrap_intervals([TaskPredictions.from_labels(true, predicted, labels, "multi_label")])
    assert intervals["accuracy"].value == pytest.approx(accuracy_score(*sides))
    for name in ("macro", "weighted"):
        assert intervals[f"{name}_f1"].value == pytest.approx(f1_score(*sides, average=name))
        assert intervals[f"{name}_f1"].low < intervals[f"{name}_f1"].value < intervals[f"{name}_f1"].high


def test_set_with_a_label_of_another_task_is_never_right() -> None:
    task = TaskPredictions.from_labels(["", "a"], ["other", "a"], ("a", "b"), "multi_label")
    assert bootstrap_intervals([task])["accuracy"].value == 0.5
