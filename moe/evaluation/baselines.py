"""What a mixture has to beat: the commonest label, and TF-IDF with logistic regression, by scikit-learn.

Trained experts as baselines need no code of their own: they are the mixture with a constant route.
"""

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

WORD = r"(?u)[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"


def tfidf() -> Pipeline:
    """Words and pairs of words, weighted, into logistic regression; Chinese, which parts no words, by character."""
    vectors = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=WORD)
    return make_pipeline(vectors, LogisticRegression(max_iter=1000, C=10.0))


def majority() -> Pipeline:
    """The commonest label of the training rows."""
    return make_pipeline(DummyClassifier(strategy="most_frequent"))


BASELINES: dict[str, Callable[[], Pipeline]] = {"majority": majority, "tfidf": tfidf}


def baseline_reports(train: Dataset, test: Dataset, space: LabelSpace, name: str) -> dict[str, dict[str, Any]]:
    """One baseline, trained and tested task by task.

    Returns:
        `moe.evaluation.metrics.classification` by task, for tasks with labelled rows on both sides; figures with their
        `…_interval`: [low, high], 95 %.
    """
    reports = {}
    for task, labels in space.tasks.items():
        known, unseen = _labelled(train, task), _labelled(test, task)
        if known[0] and unseen[0]:
            model = BASELINES[name]().fit(known[0], [labels[i] for i in known[1]])
            predicted = [str(one) for one in model.predict(unseen[0])]
            true = [labels[i] for i in unseen[1]]
            sure = interval_fields([TaskPredictions.from_labels(true, predicted, labels)])
            reports[task] = classification(true, predicted, labels) | sure
    return reports


def _labelled(rows: Dataset, task: str) -> tuple[list[str], list[int]]:
    columns = zip(rows["text"], rows["label"], rows["task"], strict=True)
    found = [(text, label) for text, label, own in columns if own == task and label >= 0]
    return [text for text, _ in found], [label for _, label in found]
