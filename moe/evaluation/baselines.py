"""Baselines without a language model, from scikit-learn: the majority class, and TF-IDF with logistic regression."""

from collections.abc import Callable
from typing import Any

from datasets import Dataset
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from experts.domain import LabelSpace
from moe.bootstrap import TaskPredictions, interval_fields
from moe.evaluation.metrics import classification

TOKEN_PATTERN = r"(?u)[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""A Chinese character, or a run of other word characters: Chinese is written without spaces between words."""


def tfidf() -> Pipeline:
    """TF-IDF of unigrams and bigrams with logistic regression; Chinese is tokenized by character."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN_PATTERN)
    return make_pipeline(vectors, LogisticRegression(max_iter=1000, C=10.0))


def majority() -> Pipeline:
    """The most frequent label of the training rows."""
    return make_pipeline(DummyClassifier(strategy="most_frequent"))


BASELINES: dict[str, Callable[[], Pipeline]] = {"majority": majority, "tfidf": tfidf}


def baseline_reports(train: Dataset, test: Dataset, space: LabelSpace, name: str) -> dict[str, dict[str, Any]]:
    """Train and test one baseline task by task.

    Args:
        name: a key of `BASELINES`.

    Returns:
        `moe.evaluation.metrics.classification` by task, for tasks with labelled rows in both splits; metrics come with
        `…_interval`: [low, high], 95 %.
    """
    reports = {}
    for task, labels in space.tasks.items():
        train_texts, train_labels = _labelled_rows(train, task)
        test_texts, test_labels = _labelled_rows(test, task)
        if train_texts and test_texts:
            model = BASELINES[name]().fit(train_texts, [labels[i] for i in train_labels])
            predicted = [str(label) for label in model.predict(test_texts)]
            true = [labels[i] for i in test_labels]
            intervals = interval_fields([TaskPredictions.from_labels(true, predicted, labels)])
            reports[task] = classification(true, predicted, labels) | intervals
    return reports


def _labelled_rows(rows: Dataset, task: str) -> tuple[list[str], list[int]]:
    columns = zip(rows["text"], rows["label"], rows["task"], strict=True)
    pairs = [(text, label) for text, label, row_task in columns if row_task == task and label >= 0]
    return [text for text, _ in pairs], [label for _, label in pairs]
