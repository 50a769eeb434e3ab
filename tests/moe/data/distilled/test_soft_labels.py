"""Soft labels on disk and in training rows."""

import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset

from experts.errors import Fault
from moe.data.distilled.settings import DistillSettings
from moe.data.distilled.soft_labels import (
    TEACHER,
    TEACHER_SCORE,
    SoftLabels,
    SoftRows,
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
    return SoftRows(texts, np.array([True, True, False, False, False]), SoftLabels(probabilities, scores))


def training_rows(*texts: str) -> Dataset:
    """Labelled rows of the task news."""
    rows = [
        dict.fromkeys(FEATURES)
        | {"id": text, "text": text, "label": 1, "line": 1, "task": "news", "domain": "news", "choices": []}
        for text in texts
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


def test_settings_refuse_what_teaches_nothing_and_a_choice_without_a_limit() -> None:
    with pytest.raises(ValueError, match="nothing to learn"):
        DistillSettings.model_validate({"teachers": ["ready"], "labelled": False})
    with pytest.raises(ValueError, match="set most"):
        DistillSettings.model_validate({"teachers": ["ready"], "select": "diverse"})
    with pytest.raises(ValueError, match="teachers"):
        DistillSettings.model_validate({"teachers": []})
