"""Claims about the metrics, compared with values computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    label_ranking_average_precision_score,
    mean_absolute_error,
    mean_squared_error,
    precision_recall_fscore_support,
    r2_score,
)
from sklearn.metrics.pairwise import cosine_similarity

from experts.json_io import json_object
from moe.bootstrap import confidence_bin
from moe.evaluation.metrics import (
    SCORE_METRICS,
    calibration_metrics,
    classification,
    label_metrics,
    ranking_precisions,
    regression,
    score_differences,
)
from moe.report.conclusions import describe_sets

NAMES = ("a", "b", "c")
pairs = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), min_size=1, max_size=60)


@given(pairs)
@settings(max_examples=50, deadline=None)
def test_weighted_recall_equals_accuracy(rows: list[tuple[str, str]]) -> None:
    true, predicted = zip(*rows, strict=True)
    report = classification(true, predicted, NAMES)
    assert report.weighted_recall == pytest.approx(report.accuracy)


def test_classification_metrics_by_hand() -> None:
    report = classification(["a", "a", "b", "b"], ["a", "b", "b", "b"], ("a", "b"))
    assert report.accuracy == 0.75
    assert json_object(report.per_class["a"]) == pytest.approx(
        {"precision": 1.0, "recall": 0.5, "f1": 2 / 3, "support": 2}
    )
    assert report.macro_f1 == pytest.approx((2 / 3 + 0.8) / 2)
    assert report.confusion.rows == [[1, 1, 0], [0, 2, 0]]


def test_label_of_another_task_is_wrong_and_counted_in_the_last_column() -> None:
    report = classification(["a", "b"], ["a", "hawkish"], ("a", "b"))
    assert report.accuracy == 0.5
    assert report.confusion.rows == [[1, 0, 0], [0, 0, 1]]


def test_score_metrics_by_hand() -> None:
    report = regression(np.array([0.0, 1.0]), np.array([0.5, 1.0]))
    by_hand = {"mse": 0.125, "mae": 0.25, "rmse": 0.125**0.5, "r2": 0.5, "pearson": 1.0, "spearman": 1.0}
    assert {name: report.value(name) for name in by_hand} == pytest.approx(by_hand)
    assert report.cosine == pytest.approx(1 / (1 * 1.25**0.5))
    single = regression(np.array([0.0]), np.array([0.5]))
    assert "r2" not in json_object(single)
    assert (single.mse, single.pearson) == (0.25, None)


def test_score_correlations_are_scipy_s_with_ties_and_lie_in_their_intervals() -> None:
    random = np.random.default_rng(0)
    true = random.uniform(-1, 1, 200).round(1)
    predicted = (true + random.normal(0, 0.5, 200)).round(1)
    report = regression(true, predicted)
    assert report.pearson == pytest.approx(pearsonr(true, predicted).statistic)
    assert report.spearman == pytest.approx(spearmanr(true, predicted).statistic)
    for name in SCORE_METRICS:
        low, high = report.interval(name)
        assert low < report.value(name) < high
        assert high - low < 0.25
    fisher = np.tanh(np.arctanh(report.pearson) + 1.96 / 197**0.5 * np.array([-1, 1]))
    assert report.pearson_interval == pytest.approx(fisher, abs=0.03)


def test_score_differences_are_paired_by_row() -> None:
    random = np.random.default_rng(1)
    true = random.uniform(-1, 1, 150)
    first = true + random.normal(0, 0.5, 150)
    second = first + 0.05 * np.sign(first - true)  # a little worse on every row
    differences = score_differences(true, first, second)
    alone = regression(true, first)
    low, high = differences["mae"].interval
    assert differences["mae"].difference == pytest.approx(-0.05)
    assert low == pytest.approx(high)
    assert differences["mse"].a == alone.mse
    assert high - low < 0.1 * np.diff(alone.mae_interval)[0]
    constant = score_differences(true, first, np.zeros(150))["pearson"]
    assert (constant.b, constant.difference, constant.interval) == (None, None, None)


@pytest.mark.parametrize(("true", "predicted"), [(0.7, 0.1), (0.0, 0.0)])
def test_constant_scores_have_no_correlation_and_no_nan(true: float, predicted: float) -> None:
    report = regression(np.array([true] * 7), np.array([predicted] * 6 + [predicted]))
    varied = regression(np.linspace(-1, 1, 7), np.array([predicted] * 7))
    for metrics in (report, varied):
        for name in ("pearson", "spearman"):
            assert metrics.value(name) is metrics.interval(name) is None
        assert all(value is None or np.all(np.isfinite(value)) for value in json_object(metrics).values())
    assert (report.cosine is None) == (true == 0)


def test_calibration_metrics_by_hand() -> None:
    probabilities = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.3, 0.7]])
    report = calibration_metrics(probabilities, np.array([0, 1, 1, 1]))
    gaps = [abs(2 * 0.9 - 1), abs(0.6 - 1), abs(0.7 - 1)]  # bins (.867, .933], (.533, .6], (.667, .733]
    assert report.ece == pytest.approx(sum(gaps) / 4)
    assert report.brier == pytest.approx((0.02 + 1.62 + 0.32 + 0.18) / 4)
    assert report.log_loss == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.7]).mean())


def test_calibration_error_is_0_if_calibrated_and_largest_if_confident_and_wrong() -> None:
    random = np.random.default_rng(0)
    first = random.random(40_000)
    probabilities = np.stack([first, 1 - first], axis=1)
    calibrated = calibration_metrics(probabilities, (random.random(40_000) > first).astype(int))
    assert max(calibrated.ece, calibrated.ece_adaptive) < 0.01
    worst = calibration_metrics(np.array([[1.0, 0.0]] * 4), np.ones(4, dtype=int))
    assert (worst.ece, worst.ece_adaptive, worst.brier) == (1.0, 1.0, 2.0)


def test_confidence_bin_includes_its_upper_edge() -> None:
    assert confidence_bin(np.array([0.0, 1e-9, 1 / 15, 0.0667, 1.0])).tolist() == [0, 0, 0, 1, 14]


@pytest.mark.parametrize("seed", range(8))
def test_classification_equals_scikit_learn_on_random_labels(seed: int) -> None:
    random = np.random.default_rng(seed)
    names = [f"label{k}" for k in range(int(random.integers(2, 6)))]
    true = random.choice(names, 50).tolist()
    predicted = random.choice([*names, "outside"], 50).tolist()
    report = classification(true, predicted, names)
    assert report.accuracy == pytest.approx(accuracy_score(true, predicted))
    for kind in ("macro", "weighted"):
        values = precision_recall_fscore_support(true, predicted, labels=names, average=kind, zero_division=0)
        assert [report.value(f"{kind}_{name}") for name in ("precision", "recall", "f1")] == pytest.approx(
            list(values[:3])
        )
    confusion = np.array(report.confusion.rows)
    assert confusion.shape == (len(names), len(names) + 1)
    assert confusion.sum() == 50
    assert np.trace(confusion[:, :-1]) == round(50 * report.accuracy)
    for i, name in enumerate(names):
        assert report.per_class[name].support == confusion[i].sum() == true.count(name)


@pytest.mark.parametrize("seed", range(8))
def test_score_metrics_equal_scikit_learn_on_random_scores(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = random.uniform(-1, 1, 40)
    predicted = np.clip(true + random.normal(scale=0.3, size=40), -1, 1)
    metrics = regression(true, predicted)
    assert metrics.mse == pytest.approx(mean_squared_error(true, predicted))
    assert metrics.rmse == pytest.approx(mean_squared_error(true, predicted) ** 0.5)
    assert metrics.mae == pytest.approx(mean_absolute_error(true, predicted))
    assert metrics.r2 == pytest.approx(r2_score(true, predicted))
    assert metrics.cosine == pytest.approx(cosine_similarity(true[None], predicted[None])[0, 0])
    for name in SCORE_METRICS:
        interval, value = metrics.interval(name), metrics.value(name)
        assert interval is not None
        assert value is not None
        assert interval[0] <= value <= interval[1]


@pytest.mark.parametrize("seed", range(5))
def test_score_metrics_do_not_depend_on_the_order_of_rows_and_correlations_not_on_the_scale(seed: int) -> None:
    random = np.random.default_rng(seed)
    true, predicted = random.uniform(-1, 1, 30), random.uniform(-1, 1, 30)
    order = random.permutation(30)
    plain, shuffled = regression(true, predicted), regression(true[order], predicted[order])
    scaled = regression(true, 0.25 * predicted + 0.5)
    for name in SCORE_METRICS:
        assert shuffled.value(name) == pytest.approx(plain.value(name))
    for name in ("pearson", "spearman"):
        assert scaled.value(name) == pytest.approx(plain.value(name))
        assert regression(true, -predicted).value(name) == pytest.approx(-(plain.value(name) or 0.0))


def test_single_row_has_no_correlation_and_no_r2() -> None:
    metrics = regression(np.array([0.5]), np.array([0.25]))
    assert (metrics.mse, metrics.mae) == (0.0625, 0.25)
    assert metrics.pearson is metrics.spearman is None
    assert metrics.r2 is None


@pytest.mark.parametrize("seed", range(8))
def test_calibration_metrics_are_within_their_bounds_and_equal_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    classes = int(random.integers(2, 5))
    probabilities = random.dirichlet(np.full(classes, 0.7), 80)
    true = random.integers(0, classes, 80)
    metrics = calibration_metrics(probabilities, true)
    assert 0 <= metrics.ece <= 1
    assert 0 <= metrics.ece_adaptive <= 1
    assert 0 <= metrics.brier <= 2
    rows = probabilities[np.arange(80), true]
    assert metrics.log_loss == pytest.approx(-np.log(np.clip(rows, np.finfo(float).eps, 1)).mean())
    one_hot = np.eye(classes)[true]
    brier = sum(brier_score_loss(one_hot[:, k], probabilities[:, k]) for k in range(classes))
    assert metrics.brier == pytest.approx(brier)
    order = random.permutation(80)
    assert calibration_metrics(probabilities[order], true[order]).ece == pytest.approx(metrics.ece)


def test_calibration_error_of_one_bin_is_the_gap_of_accuracy_and_confidence() -> None:
    probabilities = np.tile([0.9, 0.1], (10, 1))
    metrics = calibration_metrics(probabilities, np.array([0] * 6 + [1] * 4))
    assert metrics.ece == pytest.approx(0.3)
    assert metrics.ece_adaptive == pytest.approx(0.6 * 0.1 + 0.4 * 0.9), "with fewer rows than bins, a bin each"


@given(st.integers(0, 2**32 - 1), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_mean_of_ranking_precisions_is_that_of_scikit_learn(seed: int, labels: int) -> None:
    random = np.random.default_rng(seed)
    truth = random.random((30, labels)) < 0.4
    probabilities = random.integers(0, 4, (30, labels)) / 4  # with ties
    expected = label_ranking_average_precision_score(truth.astype(int), probabilities) if labels > 1 else 1.0
    assert ranking_precisions(truth, probabilities).mean() == pytest.approx(expected)


def test_multi_label_metrics_have_intervals_that_shrink_with_rows() -> None:
    random = np.random.default_rng(0)
    widths = []
    for rows in (50, 800):
        truth, noise = random.random((rows, 3)) < 0.4, random.random((rows, 3)) < 0.2
        true, predicted = ([";".join(np.array(NAMES)[row]) for row in side] for side in (truth, truth ^ noise))
        metrics = label_metrics(true, predicted, NAMES, "multi_label", random.random((rows, 3)))
        for name in ("micro_f1", "lrap"):
            low, high = metrics.interval(name)
            assert low < metrics.value(name) < high
        widths.append(np.ptp(metrics.micro_f1_interval))
        assert f"micro-F1 {metrics.micro_f1:.3f} ({metrics.micro_f1_interval[0]:.3f} to " in describe_sets(metrics)
    assert widths[1] == pytest.approx(widths[0] / 4, rel=0.3), "16 times the rows"


def test_multi_label_metrics_without_probabilities_have_no_ranking() -> None:
    metrics = label_metrics(["a", "b;c"], ["a", "b"], NAMES, "multi_label")
    assert metrics.lrap is None
    assert metrics.lrap_interval is None
    assert "ranking" not in describe_sets(metrics)
