"""Soft labels on disk and in training rows."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from experts.errors import Fault
from moe.data.distilled.settings import DistillSettings
from moe.data.distilled.soft_labels import (
    TEACHER,
    TEACHER_SCORE,
    SoftLabels,
    SoftRows,
    read_origin,
    read_soft_rows,
    with_soft_labels,
    write_soft_rows,
)
from moe.data.ingest import FEATURES

SETTINGS = DistillSettings.model_validate({"teachers": ["ready"]}).of_labels("news")
ORIGIN = json.dumps({"of": {"settings": SETTINGS}})


def soft_rows() -> SoftRows:
    """Two labelled and three other texts; one of each without an answer."""
    probabilities = np.array([[0.7, 0.2, 0.1], [np.nan] * 3, [0.1, 0.1, 0.8], [np.nan] * 3, [0.5, 0.25, 0.25]], "f")
    scores = np.array([0.5, np.nan, np.nan, np.nan, -1.0], "f")
    texts = ["own a", "own b", "new a", "new b", "new c"]
    labelled = np.array([True, True, False, False, False])
    return SoftRows(texts, [None] * 5, labelled, SoftLabels(probabilities, scores))


def training_rows(*texts: str, targets: Sequence[str | None] | None = None) -> Dataset:
    """Labelled rows of the task news."""
    rows = [
        dict.fromkeys(FEATURES)
        | {"id": text, "text": text, "label": 1, "line": 1, "task": "news", "domain": "news", "choices": []}
        | {"target": target}
        for text, target in zip(texts, targets or [None] * len(texts), strict=True)
    ]
    return Dataset.from_list(rows, features=FEATURES)


def test_file_gives_back_the_rows(tmp_path: Path) -> None:
    path, rows = tmp_path / "news.parquet", soft_rows()
    write_soft_rows(path, rows, ORIGIN)
    read = read_soft_rows(path, SETTINGS)
    assert read.texts == rows.texts
    np.testing.assert_array_equal(read.labelled, rows.labelled)
    np.testing.assert_array_equal(read.answers.probabilities, rows.answers.probabilities)
    np.testing.assert_array_equal(read.answers.scores, rows.answers.scores)


def test_other_settings_another_file_and_no_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "news.parquet"
    with pytest.raises(Fault, match="no such file"):
        read_soft_rows(path, SETTINGS)
    write_soft_rows(path, soft_rows(), ORIGIN)
    with pytest.raises(Fault, match="those of other settings"):
        read_soft_rows(path, {**SETTINGS, "most": 7})
    path.write_bytes(b"not parquet")
    with pytest.raises(Fault, match="another file"):
        read_soft_rows(path, SETTINGS)


def test_training_rows_get_answers_and_are_followed_by_answered_texts() -> None:
    rows = with_soft_labels(training_rows("own a", "own b", "unknown"), soft_rows(), "news", "news")
    assert rows["text"] == ["own a", "own b", "unknown", "new a", "new c"]
    assert rows["label"] == [1, 1, 1, -1, -1]
    assert [answer is None for answer in rows[TEACHER]] == [False, True, True, False, False]
    np.testing.assert_allclose(rows[0][TEACHER], [0.7, 0.2, 0.1])
    assert rows[TEACHER_SCORE] == [0.5, None, None, None, -1.0]
    assert len(set(rows["id"])) == len(rows)


def test_answers_about_entities_go_to_the_rows_of_the_same_text_and_entity(tmp_path: Path) -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]], "f")
    answers = SoftLabels(probabilities, np.full(2, np.nan, "f"))
    write_soft_rows(tmp_path / "a.parquet", SoftRows(["t", "t"], ["a", "b"], np.array([True, True]), answers), ORIGIN)
    soft = read_soft_rows(tmp_path / "a.parquet", SETTINGS)
    rows = with_soft_labels(training_rows("t", "t", "t", targets=["b", "a", "c"]), soft, "news", "news")
    assert rows["target"] == ["b", "a", "c"]
    np.testing.assert_allclose(rows[0][TEACHER], probabilities[1])
    np.testing.assert_allclose(rows[1][TEACHER], probabilities[0])
    assert rows[2][TEACHER] is None


def test_rows_stay_as_they_are_where_no_teacher_answers(tmp_path: Path) -> None:
    write_soft_rows(tmp_path / "a.parquet", SoftRows([], [], np.zeros(0, bool), SoftLabels.empty(0, 3)), ORIGIN)
    train = training_rows("t", "u", targets=["a", "b"])
    rows = with_soft_labels(train, read_soft_rows(tmp_path / "a.parquet", SETTINGS), "news", "news")
    assert rows.select_columns(list(FEATURES))[:] == train[:]
    assert rows[TEACHER] == rows[TEACHER_SCORE] == [None, None]


def test_file_of_an_earlier_version_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    write_soft_rows(path, soft_rows(), ORIGIN)
    assert read_origin(path) == ORIGIN
    pq.write_table(pq.read_table(path).drop_columns(["target"]), path)
    assert read_origin(path) is None


def test_settings_refuse_what_teaches_nothing_and_a_choice_without_a_limit() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        DistillSettings.model_validate({"teachers": ["ready"], "labelled": False})
    with pytest.raises(ValueError, match="set most"):
        DistillSettings.model_validate({"teachers": ["ready"], "select": "diverse"})
    with pytest.raises(ValueError, match="teachers"):
        DistillSettings.model_validate({"teachers": []})
