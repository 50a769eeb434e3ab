"""Calibration and abstention with few validation rows: calibration error, and thresholds that miss their accuracy.

Run: `python benchmarks/calibration.py FOLDER`, with the CSV files of `SETS` in FOLDER. Two classifiers on TF-IDF are
trained on each set, one too cautious and one overconfident; then validation rows are drawn many times, and all other
rows test. It prints one table in Markdown: means over sets and draws, with 95 % intervals over sets. About two minutes
on one free core.
"""

import argparse
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline

from moe.data.formats.readers import read_records
from moe.evaluation.baselines import TOKEN_PATTERN
from moe.evaluation.calibration.temperature import TaskLogits, choose_temperature, fit_temperature
from moe.evaluation.calibration.thresholds import DEFAULT_LEVEL, risk_coverage_curve
from moe.evaluation.metrics import calibration_metrics
from moe.inference.abstention import find_point

SETS = (
    "fiqa_sa",
    "fomc",
    "fpb",
    "gold_headlines",
    "guba_zh",
    "numclaim",
    "sentfin",
    "stockemotions",
    "twitter_fin_news",
    "zh_news_titles",
)
SIZES = (60, 100, 200, 500)
TARGETS = (0.8, 0.85, 0.9, 0.95)
TRAIN_ROWS, POOL_ROWS = 600, 2500
COLUMNS = (
    "classifier",
    "rows",
    "ECE: T = 1",
    "least log loss",
    "chosen",
    "worse: least log loss",
    "chosen",
    "missed: by accuracy",
    "by bound",
    "threshold exists: by accuracy",
    "by bound",
    "coverage: by accuracy",
    "by bound",
)
"""Columns of the table; the part before a colon also holds for the next columns."""
WORSE = 0.005
"""Rise of the calibration error that counts as worse."""


def vectors() -> TfidfVectorizer:
    """TF-IDF of words and pairs of words."""
    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN_PATTERN)


def regression() -> Pipeline:
    """TF-IDF with logistic regression, which is too cautious on most sets."""
    return make_pipeline(vectors(), LogisticRegression(max_iter=1000, C=10.0))


def mlp() -> Pipeline:
    """TF-IDF with a network that is trained until it is overconfident."""
    network = MLPClassifier((64,), max_iter=120, learning_rate_init=6e-3, random_state=0)
    return make_pipeline(vectors(), TruncatedSVD(100, random_state=0), network)


CLASSIFIERS = {"TF-IDF, logistic regression": regression, "TF-IDF, network": mlp}


@dataclass(frozen=True)
class Draw:
    """Results of one draw of validation rows.

    Args:
        ece: calibration error on the test rows at T = 1, at the T of least log loss, and at the T that is chosen.
        given: for each target accuracy, whether there is a threshold: by the accuracy on the validation rows, by bound.
        missed: the same, whether the accuracy above it on the test rows is below the target.
        coverage: the same, share of the test rows above it; 0 without a threshold.
    """

    ece: tuple[float, float, float]
    given: np.ndarray
    missed: np.ndarray
    coverage: np.ndarray


def main() -> None:
    """Train the classifiers, draw validation rows, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the data sets")
    parser.add_argument("--draws", type=int, default=20, help="draws of validation rows for each set and size")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, build in CLASSIFIERS.items():
        pools = [train_and_predict(args.folder / f"{data}.csv", build()) for data in SETS]
        for size in SIZES:
            draws = [list(draw_rows(pool, size, args.draws)) for pool in pools if len(pool.true) >= 3 * size]
            print(f"| {name} | {size} | {' | '.join(summarize(draws))} |", flush=True)


def train_and_predict(path: Path, classifier: Pipeline) -> TaskLogits:
    """Train a classifier on some rows of a file, and return its logits on others."""
    rows = [record.values for record in read_records(path, others=None)]
    texts, labels = (np.array([str(row[name]) for row in rows], dtype=object) for name in ("text", "label"))
    order = np.random.default_rng(0).permutation(len(rows))
    train = order[: min(TRAIN_ROWS, len(rows) // 3)]
    pool = order[len(train) :][:POOL_ROWS]
    classifier.fit(list(texts[train]), list(labels[train]))
    probabilities = classifier.predict_proba(list(texts[pool]))  # (N, K)
    true = np.searchsorted(classifier.classes_, labels[pool].astype(str))  # (N,)
    return TaskLogits(np.log(probabilities.clip(1e-30)), true)


def draw_rows(pool: TaskLogits, size: int, draws: int) -> Iterator[Draw]:
    """Draw validation rows several times, and test on the rest."""
    random = np.random.default_rng(size)
    for _ in range(draws):
        order = random.permutation(len(pool.true))
        yield measure(pool[order[:size]], pool[order[size:]])


def measure(validation: TaskLogits, test: TaskLogits) -> Draw:
    """Calibrate on validation rows, and measure on test rows."""
    chosen, _ = choose_temperature(validation)
    temperatures = (1.0, fit_temperature(validation, inf), chosen)
    ece = [calibration_metrics(test.probabilities(t), test.true).ece for t in temperatures]
    confidence, correct = test.confidence(chosen), test.correct  # (N,) each
    curve = risk_coverage_curve(validation.confidence(chosen), validation.correct)
    given, missed, coverage = (np.zeros((len(TARGETS), 2)) for _ in range(3))
    for i, target in enumerate(TARGETS):
        for j, level in enumerate((None, DEFAULT_LEVEL)):
            if point := find_point(curve, target, level):
                retained = confidence >= point.threshold  # (N,)
                given[i, j] = 1
                missed[i, j] = retained.any() and correct[retained].mean() < target
                coverage[i, j] = retained.mean()
    return Draw((ece[0], ece[1], ece[2]), given, missed, coverage)


def summarize(sets: Sequence[Sequence[Draw]]) -> list[str]:
    """The cells of a row: means over draws of all sets, with intervals over sets."""
    ece = np.array([[draw.ece for draw in draws] for draws in sets])  # (S, D, 3)
    worse = 100.0 * (ece[:, :, 1:] > ece[:, :, :1] + WORSE)  # (S, D, 2)
    given, missed, coverage = (
        np.array([[getattr(draw, name) for draw in draws] for draws in sets]).mean((1, 2))
        for name in ("given", "missed", "coverage")
    )  # (S, 2) each
    cells = [f"{value:.3f}".lstrip("0") for value in ece.mean((0, 1))]
    cells += [format_share(worse[:, :, j].mean(1)) for j in (0, 1)]
    cells += [format_share(100 * missed[:, j], given[:, j]) for j in (0, 1)]
    return cells + [f"{100 * values[:, j].mean():.0f} %" for values in (given, coverage) for j in (0, 1)]


def format_share(values: np.ndarray, weights: np.ndarray | None = None) -> str:
    """Format a mean over sets (S,), in percent, with its bootstrap interval.

    Args:
        weights: (S,), of which the values are a part; None for 1.
    """
    parts = np.ones_like(values) if weights is None else weights
    chosen = np.random.default_rng(0).integers(len(values), size=(5000, len(values)))
    resampled = values[chosen].sum(1) / np.maximum(parts[chosen].sum(1), 1e-9)
    low, high = np.percentile(resampled, (2.5, 97.5))
    return f"{values.sum() / max(parts.sum(), 1e-9):.1f} % ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
