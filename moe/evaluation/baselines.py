"""Baselines without a language model, from scikit-learn: the majority class, and TF-IDF with logistic regression.

For a task with a target, TF-IDF reads the words around the target; beside it, TF-IDF of the whole text gives all
targets of a text the same label.
"""

import re
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
TEXT_BASELINE = "tfidf of the text"
"""Name of the baseline that reads the text of a task with a target, and ignores the target."""
WINDOW_WORDS = 5
TARGET_MARK = "targetmark"
"""Replaces the target in its window, so that only the words around it count."""
_WORD = re.compile(TOKEN_PATTERN)


def target_window(text: str, target: str, words: int = WINDOW_WORDS) -> str:
    """Return up to `words` words on each side of a target's first occurrence, with a mark in its place.

    Without regard to letter case; the text itself if it does not contain the target.
    """
    match = re.search(re.escape(target), text, re.IGNORECASE)
    if match is None:
        return text
    before, after = _WORD.findall(text[: match.start()]), _WORD.findall(text[match.end() :])
    return " ".join([*before[-words:], TARGET_MARK, *after[:words]])


def baseline_reports(train: Dataset, test: Dataset, space: LabelSpace, name: str) -> dict[str, dict[str, Any]]:
    """Train and test one baseline task by task.

    Args:
        name: a key of `BASELINES`, or `TEXT_BASELINE`, which is for tasks with a target only.

    Returns:
        `moe.evaluation.metrics.classification` by task, for tasks with labelled rows in both splits; metrics come with
        `…_interval`: [low, high], 95 %.
    """
    reports = {}
    tasks = {
        task: labels for task, labels in space.tasks.items() if name != TEXT_BASELINE or task in space.target_tasks
    }
    for task, labels in tasks.items():
        windows = name != TEXT_BASELINE and task in space.target_tasks
        train_texts, train_labels = _labelled_rows(train, task, windows)
        test_texts, test_labels = _labelled_rows(test, task, windows)
        if train_texts and test_texts:
            model = BASELINES.get(name, tfidf)().fit(train_texts, [labels[i] for i in train_labels])
            predicted = [str(label) for label in model.predict(test_texts)]
            true = [labels[i] for i in test_labels]
            intervals = interval_fields([TaskPredictions.from_labels(true, predicted, labels)])
            reports[task] = classification(true, predicted, labels) | intervals
    return reports


def _labelled_rows(rows: Dataset, task: str, windows: bool) -> tuple[list[str], list[int]]:
    """Texts and labels of a task's labelled rows; with `windows`, only the words around the target of each."""
    columns = zip(rows["text"], rows["target"], rows["label"], rows["task"], strict=True)
    pairs = [
        (target_window(text, target) if windows else text, label)
        for text, target, label, row_task in columns
        if row_task == task and label >= 0
    ]
    return [text for text, _ in pairs], [label for _, label in pairs]
