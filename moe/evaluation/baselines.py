"""Baselines without a language model, from scikit-learn: a constant prediction, and TF-IDF with a linear model.

Labels are predicted by the majority class and by logistic regression, scores by their mean and by ridge regression. For
a task with a target, TF-IDF reads the words around the target; beside it, TF-IDF of the whole text gives all targets of
a text the same label.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from datasets import Dataset
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import f1_score
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline

from experts.domain import Labels, LabelSpace
from moe.evaluation.results import ModelResult, ScoreAnswers, label_result, score_metrics, score_result
from moe.evaluation.rows import LabelledRow, true_label
from moe.kinds.base import TaskKind
from moe.kinds.registry import task_kind
from moe.results.metrics import LabelMetrics

TOKEN_PATTERN = r"(?u)[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""A Chinese character, or a run of other word characters: Chinese is written without spaces between words."""
INVERSE_REGULARIZATION = (1.0, 4.0, 16.0, 64.0)
"""Values of C of the logistic regression, among which the validation rows choose."""
RIDGE_PENALTIES = (0.1, 0.3, 1.0, 3.0)
"""Penalties of the ridge regression, among which the validation rows choose."""


def tfidf(inverse_regularization: float = 10.0) -> Pipeline:
    """TF-IDF of words and characters with logistic regression; Chinese words are characters.

    Args:
        inverse_regularization: C of the regression; larger fits the training rows more closely.
    """
    return make_pipeline(_vectors(), LogisticRegression(max_iter=1000, C=inverse_regularization))


def _vectors() -> FeatureUnion:
    """TF-IDF of single words and pairs of words, and of 2 to 5 characters within a word."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=TOKEN_PATTERN)
    characters = TfidfVectorizer(ngram_range=(2, 5), sublinear_tf=True, analyzer="char_wb")
    return FeatureUnion([("words", words), ("characters", characters)])


@dataclass(frozen=True)
class _Rows:
    """Rows of one task that have a label, or those that have a score.

    Args:
        ids: of the rows.
        texts: that a baseline reads.
        values: label names, or scores.
    """

    ids: list[str]
    texts: list[str]
    values: list[Any]

    @classmethod
    def of(cls, rows: Sequence[LabelledRow], windows: bool, value_of: Callable[[LabelledRow], Any]) -> "_Rows":
        """Select the rows that have a value; with `windows`, only the words around the target of each text."""
        chosen = [(row, value) for row in rows if (value := value_of(row)) is not None]
        texts = [
            target_window(row["text"], target) if windows and (target := row["target"]) is not None else row["text"]
            for row, _ in chosen
        ]
        return cls([row.get("id", "") for row, _ in chosen], texts, [value for _, value in chosen])


_YES, _NO = "yes", "no"
Fit = Callable[[_Rows, _Rows], Pipeline]
"""Fits a baseline to training rows; validation rows, if there are any, choose its regularization."""


def _fit_majority(train: _Rows, held_out: _Rows) -> Pipeline:
    return make_pipeline(DummyClassifier(strategy="most_frequent")).fit(train.texts, train.values)


class _SetModel:
    """A model of label sets: one binary model per label, whose predictions are joined.

    Args:
        models: by label, in the order of the task; each predicts `yes` or `no`.
        kind: of the task.
    """

    def __init__(self, models: Mapping[str, Pipeline], kind: TaskKind) -> None:
        self.models, self.kind = models, kind

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """Predict the labels of texts, as one string each (N,)."""
        has = np.stack([model.predict(texts) == _YES for model in self.models.values()], 1)  # (N, K)
        labels = list(self.models)
        return np.array([self.kind.join([labels[i] for i in np.flatnonzero(row)]) for row in has], dtype=object)


def _fit_sets(fit: "Fit", kind: TaskKind, labels: Labels, train: _Rows, held_out: _Rows) -> _SetModel:
    """Fit a baseline to each label of a task whose rows have sets of labels (binary relevance)."""

    def has(rows: _Rows, label: str) -> _Rows:
        return replace(rows, values=[_YES if label in kind.split(value) else _NO for value in rows.values])

    return _SetModel({label: fit(has(train, label), has(held_out, label)) for label in labels}, kind)


def _fit_mean(train: _Rows, held_out: _Rows) -> Pipeline:
    return make_pipeline(DummyRegressor(strategy="mean")).fit(train.texts, train.values)


def _fit_tfidf(train: _Rows, held_out: _Rows) -> Pipeline:
    if len(set(train.values)) == 1:
        return _fit_majority(train, held_out)
    if not held_out.texts:
        return tfidf().fit(train.texts, train.values)
    models = [LogisticRegression(max_iter=1000, C=value) for value in INVERSE_REGULARIZATION]
    return _best(train, held_out, models, lambda true, predicted: f1_score(true, predicted, average="macro"))


def _fit_ridge(train: _Rows, held_out: _Rows) -> Pipeline:
    if not held_out.texts:
        return make_pipeline(_vectors(), Ridge()).fit(train.texts, train.values)
    models = [Ridge(alpha=value) for value in RIDGE_PENALTIES]
    return _best(
        train, held_out, models, lambda true, predicted: -float(np.square(np.subtract(true, predicted)).mean())
    )


def _best(
    train: _Rows, held_out: _Rows, models: Sequence[BaseEstimator], metric: Callable[[Any, Any], float]
) -> Pipeline:
    """TF-IDF with the model that predicts the held-out rows best, fitted to the training rows."""
    vectors = _vectors()
    known, unknown = vectors.fit_transform(train.texts), vectors.transform(held_out.texts)
    fitted = [model.fit(known, train.values) for model in models]
    return make_pipeline(vectors, max(fitted, key=lambda model: metric(held_out.values, model.predict(unknown))))


BASELINES: dict[str, tuple[Fit, Fit]] = {"majority": (_fit_majority, _fit_mean), "tfidf": (_fit_tfidf, _fit_ridge)}
"""How each baseline is fitted to labels and to scores."""
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


def baseline_results(
    train: Dataset, test: Dataset, space: LabelSpace, name: str, held_out: Dataset | None = None
) -> ModelResult:
    """Train and test one baseline task by task.

    Args:
        name: a key of `BASELINES`, or `TEXT_BASELINE`, which is for tasks with a target only.
        held_out: validation rows, which choose the regularization of TF-IDF; without any it is fixed.

    Returns:
        the result of each task that has labels, or scores, in training and test rows.
    """
    fit_labels, fit_scores = BASELINES.get(name, BASELINES["tfidf"])
    splits = [[] if rows is None else rows.to_list() for rows in (train, held_out, test)]
    results: ModelResult = {}
    for task, labels in space.tasks.items():
        if name == TEXT_BASELINE and task not in space.target_tasks:
            continue
        windows = name != TEXT_BASELINE and task in space.target_tasks
        parts = [[row for row in rows if row["task"] == task] for rows in splits]
        scores = _predict(fit_scores, [_Rows.of(part, windows, _score_of) for part in parts])
        kind = task_kind(space.kind(task))
        fit = partial(_fit_sets, fit_labels, kind, labels) if kind.is_set else fit_labels
        named = _predict(fit, [_Rows.of(part, windows, partial(true_label, space=space)) for part in parts])
        answers = None
        if scores is not None:
            own, values = scores
            answers = ScoreAnswers(tuple(own.ids), np.array(own.values, dtype=float), np.clip(values, -1.0, 1.0))
        if named is not None:
            predicted = [str(label) for label in named[1]]
            own_scores = score_metrics(answers)
            results[task] = label_result(named[0].ids, named[0].values, predicted, labels, own_scores, kind.name)
        elif answers is not None:
            results[task] = score_result(answers)
    return results


def baseline_reports(
    train: Dataset, test: Dataset, space: LabelSpace, name: str, held_out: Dataset | None = None
) -> dict[str, LabelMetrics]:
    """Train and test one baseline on the labels of each task; see `baseline_results`.

    Returns:
        metrics by task, for tasks with labelled rows in both splits.
    """
    results = baseline_results(train, test, space, name, held_out)
    return {task: result.metrics for task, result in results.items() if result.metrics is not None}


def _predict(
    fit: Callable[[_Rows, _Rows], "Pipeline | _SetModel"], splits: Sequence[_Rows]
) -> tuple[_Rows, np.ndarray] | None:
    """The test rows and a baseline's predictions of them (N,); None without rows to train on or to predict."""
    train, held_out, test = splits
    if not train.texts or not test.texts:
        return None
    predicted: np.ndarray = fit(train, held_out).predict(test.texts)
    return test, predicted


def _score_of(row: LabelledRow) -> float | None:
    return row.get("score")
