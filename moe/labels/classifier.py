"""A cheap classifier of labels: a kernel on frozen features and TF-IDF of the words, each by logistic regression.

The two err on different rows, so the geometric mean of their probabilities finds more wrong labels than either.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.kernel_approximation import Nystroem
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from moe.evaluation.baselines import TOKEN_PATTERN, target_window

_COMPONENTS = 500
"""Most rows that span the kernel's features; more fit finer and take longer."""
_GAMMA = 0.5
"""Decay of the kernel with the mean squared difference of two rows' standardized features."""
_KERNEL_STRENGTH, _WORD_STRENGTH = 3.0, 5.0
"""Inverse strengths of the penalties; higher fits wrong labels, too."""
_MAX_STEPS = 300
_SMALLEST = 1e-4
"""Added to probabilities before their geometric mean, so that one 0 does not decide alone."""


@dataclass(frozen=True)
class ClassifierInputs:
    """What the classifier reads of N texts.

    Args:
        features: frozen features (N, F).
        words: TF-IDF of words and pairs of words (N, V).
    """

    features: np.ndarray
    words: csr_matrix

    def select(self, rows: np.ndarray) -> "ClassifierInputs":
        """Return those of some texts, given by a mask or by indices."""
        return ClassifierInputs(self.features[rows], self.words[rows])


@dataclass(frozen=True)
class LabelClassifier:
    """Two fitted classifiers.

    Args:
        kernel: reads the features.
        words: reads the TF-IDF of the words.
    """

    kernel: Pipeline
    words: LogisticRegression

    @property
    def classes(self) -> np.ndarray:
        """The labels that it knows (K,), in the order of its probabilities."""
        classes: np.ndarray = self.words.classes_
        return classes

    def predict(self, inputs: ClassifierInputs) -> np.ndarray:
        """Return the probabilities of texts (N, K): the geometric mean of both classifiers', scaled to sum 1."""
        both = (self.kernel.predict_proba(inputs.features), self.words.predict_proba(inputs.words))
        mean = np.exp(np.mean([np.log(probabilities + _SMALLEST) for probabilities in both], axis=0))  # (N, K)
        scaled: np.ndarray = mean / mean.sum(1, keepdims=True)
        return scaled


def word_vectors(texts: Sequence[str], targets: Sequence[str | None]) -> csr_matrix:
    """Return the TF-IDF of the words and pairs of words of texts (N, V): of a text with a target, those around it.

    Words of a single text are left out, since another text's label says nothing about them. The weights depend on all
    texts, but on no label.
    """
    windows = [
        text if target is None else target_window(text, target) for text, target in zip(texts, targets, strict=True)
    ]
    vectors = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True, token_pattern=TOKEN_PATTERN, dtype=np.float32
    )
    try:
        return csr_matrix(vectors.fit_transform(windows))
    except ValueError:  # no two texts share a word
        return csr_matrix((len(texts), 1), dtype=np.float32)


def fit_classifier(inputs: ClassifierInputs, labels: np.ndarray) -> LabelClassifier:
    """Fit both classifiers.

    Args:
        inputs: of N texts.
        labels: index of each text's label (N,), of at least two labels.
    """
    kernel = make_pipeline(
        StandardScaler(),
        Nystroem(gamma=_GAMMA / inputs.features.shape[1], n_components=min(_COMPONENTS, len(labels)), random_state=0),
        LogisticRegression(C=_KERNEL_STRENGTH, max_iter=_MAX_STEPS),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weights near the optimum rank rows as well
        return LabelClassifier(
            kernel.fit(inputs.features, labels),
            LogisticRegression(C=_WORD_STRENGTH, max_iter=_MAX_STEPS).fit(inputs.words, labels),
        )
