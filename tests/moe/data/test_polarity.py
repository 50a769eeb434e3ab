"""Scores are refused as polarities if their sign or order contradicts the labels; honest noise passes."""

import numpy as np
import pytest

from moe.data.polarity import find_sign, label_signs, one_sign, rank_agreement, score_finding

RANDOM = np.random.default_rng(5)
THREE = ("negative", "neutral", "positive")


def polarities(spread: float, rows: int = 60, means: tuple[float, ...] = (-0.4, 0, 0.4)) -> dict[str, np.ndarray]:
    """Scores of three labels around their means, each (rows,)."""
    return {name: np.clip(RANDOM.normal(mean, spread, rows), -1, 1) for name, mean in zip(THREE, means, strict=True)}


def confidences(labels: tuple[str, ...], rows: int = 40, least: float = 0.5) -> dict[str, np.ndarray]:
    """A classifier's confidences (rows,) for each label."""
    return {label: RANDOM.uniform(least, 1, rows) for label in labels}


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4])
def test_score_finding_accepts_polarities_with_noise(spread: float) -> None:
    assert score_finding(polarities(spread)) is None


def test_score_finding_accepts_a_single_label_unbalanced_labels_and_few_rows() -> None:
    assert score_finding({"positive": [0.3, 0.4, 0.9] * 10}) is None
    assert score_finding({"negative": [-0.4, 0.1], "positive": [0.5] * 300}) is None
    assert score_finding({"neutral": [0.0] * 50, "positive": [0.6] * 50}) is None
    assert score_finding({"negative": [-0.2, 0.1, -0.5], "neutral": [0.1], "positive": [0.3, -0.1, 0.4]}) is None
    assert score_finding({}) is None


@pytest.mark.parametrize(
    "labels",
    [
        THREE,
        ("negative", "positive"),
        ("利空", "利好"),
        ("Bearish", "Bullish"),
        ("NEG", "NEU", "POS"),
        ("very negative", "negative", "neutral", "positive", "very positive"),
        ("-1", "0", "1"),
        ("inclaim", "outofclaim"),
        ("hawkish", "neutral", "dovish"),
        ("LABEL_0", "LABEL_1", "LABEL_2"),
        ("0", "1"),
        ("positive", "other"),
        ("joy", "anger", "fear", "surprise"),
    ],
)
def test_score_finding_refuses_confidences_whatever_the_labels(labels: tuple[str, ...]) -> None:
    assert score_finding(confidences(labels)) is not None


def test_score_finding_refuses_confidences_of_few_rows() -> None:
    assert score_finding(confidences(("negative", "positive"), 3)) is not None
    assert score_finding(confidences(("LABEL_0", "LABEL_1"), 4)) is not None


def test_score_finding_refuses_the_confidences_of_negative_rows_alone() -> None:
    finding = score_finding({"negative": RANDOM.uniform(0.5, 1, 30)})
    assert finding is not None
    assert "100% of the scores of negative rows are above 0" in finding


@pytest.mark.parametrize(
    "scores",
    [
        {"negative": RANDOM.uniform(0, 0.4, 50), "neutral": [0.5] * 50, "positive": RANDOM.uniform(0.6, 1, 50)},
        {"negative": [0.0] * 50, "neutral": [0.5] * 50, "positive": [1.0] * 50},
        {"negative": [-1.0] * 50, "positive": [0.0] * 50},
        {name: -values for name, values in polarities(0.2).items()},
        {"negative": [0.0] * 50, "positive": [0.0] * 50},
        {name: RANDOM.uniform(-1, 1, 400) for name in ("negative", "positive")},
    ],
    ids=["p(positive)", "0, 0.5, 1", "-1, 0", "inverted", "constant", "random"],
)
def test_score_finding_refuses_other_measures(scores: dict[str, list[float]]) -> None:
    assert score_finding(scores) is not None


def test_score_finding_accepts_signed_scores_of_labels_without_a_polarity() -> None:
    assert score_finding({name: RANDOM.uniform(-1, 1, 40) for name in ("inclaim", "outofclaim")}) is None


def test_score_finding_names_the_mean_of_each_label() -> None:
    finding = score_finding({"negative": [0.9] * 4, "positive": [0.8] * 5})
    assert finding is not None
    assert "+0.90 in 4 rows labelled negative, +0.80 in 5 rows labelled positive" in finding
    assert "from 0.50 to 1, as a classifier's confidence" in finding


def test_label_signs_reads_words_numbers_and_chinese_and_no_negations() -> None:
    assert label_signs(("very negative", "neutral", "Positive", "mixed")) == {
        "very negative": -1,
        "neutral": 0,
        "Positive": 1,
    }
    assert label_signs(("-2", "0", "1.5")) == {"-2": -1, "0": 0, "1.5": 1}
    assert label_signs(("重大利空", "利好")) == {"重大利空": -1, "利好": 1}
    assert label_signs(("0", "1", "2")) == {}
    assert label_signs(("negative", "not negative")) == {"negative": -1}


def test_find_sign_returns_the_pair_among_the_labels_as_spelled() -> None:
    assert find_sign(("bullish", "bearish")) == ("bearish", "bullish")
    assert find_sign(("Negative", "Positive")) is None


def test_rank_agreement_counts_ties_as_half() -> None:
    assert rank_agreement([0, 1], [1, 2]) == (0.5 + 1 + 1 + 1) / 4


def test_one_sign_needs_twenty_scores() -> None:
    assert one_sign([0.5] * 20)
    assert not one_sign([0.5] * 19)
    assert not one_sign([0.5, -0.5] * 20)
