"""Claims about warnings of few rows and shared texts: each appears with its remedy, and none for enough clean rows."""

from typing import Any

import pytest
from datasets import Dataset

from moe.data.schema import TaskSettings
from moe.data.task_reports import SplitSize, TaskReport
from moe.evaluation.row_warnings import (
    count_warnings,
    macro_f1_uncertainty,
    removed_overlap_warning,
    shared_text_warning,
)

LABELS = ("bad", "good")


def report(own: bool = False, near: dict[str, int] | None = None, **splits: tuple[int, int]) -> TaskReport:
    """Report of a prepared task with these rows of each label."""
    sizes = {name: SplitSize(sum(rows), dict(zip(LABELS, rows, strict=True))) for name, rows in splits.items()}
    return TaskReport(task="news", own_split=own, near_duplicates=near or {}, splits=sizes)


def warnings(own: bool = False, settings: dict[str, Any] | None = None, **splits: tuple[int, int]) -> list[str]:
    """Warnings about a task with two labels."""
    return count_warnings(report(own, **splits), TaskSettings(labels=LABELS, **(settings or {})))


def test_warnings_are_none_for_enough_rows() -> None:
    assert warnings(train=(500, 500), validation=(50, 50), test=(50, 50)) == []


def test_warnings_are_none_for_a_task_of_scores_only() -> None:
    assert warnings(train=(0, 0), validation=(0, 0), test=(0, 0)) == []


def test_few_validation_rows_warn_with_their_uncertainty_and_a_split_that_holds_out_enough() -> None:
    (line,) = warnings(train=(860, 860), validation=(32, 32), test=(108, 108))
    assert line.startswith("news: macro-F1 of 64 validation rows (split 98/1/1) is uncertain by about ± .11: ")
    assert "ratios: [85, 5, 10]" in line  # 5 % of 2,000 rows


def test_few_validation_rows_of_a_small_file_call_for_more_rows() -> None:
    (line,) = warnings(train=(90, 90), validation=(10, 10), test=(10, 10))
    assert "label more rows" in line
    assert "ratios" not in line


def test_tiny_validation_split_of_a_small_file_calls_for_another_split_and_blames_no_class() -> None:
    (line,) = warnings(train=(58, 60), validation=(1, 0), test=(0, 1))
    assert "hold out more (split: {ratios: [60, 20, 20]}), label more rows" in line


def test_few_validation_rows_in_the_files_own_split_name_that_split() -> None:
    (line,) = warnings(own=True, train=(900, 900), validation=(25, 25), test=(75, 75))
    assert "move rows to the file's validation split" in line
    assert "own: false" in line


def test_few_validation_rows_because_of_a_cap_name_the_cap() -> None:
    (line,) = warnings(settings={"max_validation_rows": 60}, train=(900, 900), validation=(30, 30), test=(100, 100))
    assert "raise max_validation_rows (60)" in line


def test_no_validation_rows_warn_that_nothing_selects_the_weights() -> None:
    (line,) = warnings(train=(900, 900), validation=(0, 0), test=(100, 100))
    assert "no labelled validation rows" in line


def test_rare_class_warns_with_its_rows_in_every_split_where_it_has_few() -> None:
    (line,) = warnings(train=(900, 3), validation=(99, 1), test=(95, 5))
    assert "fewer than 5 rows of good (3 train, 1 validation)" in line
    assert "label_map" in line


def test_rare_class_ignores_splits_without_rows() -> None:
    assert warnings(train=(900, 900), validation=(60, 60), test=(0, 0)) == []


@pytest.mark.parametrize(("counts", "half"), [([32, 32], 0.112), ([64], 0.112), ([60, 4], 0.232), ([32, 32, 0], 0.112)])
def test_uncertainty_of_macro_f1_grows_with_imbalance(counts: list[int], half: float) -> None:
    assert macro_f1_uncertainty(counts) == pytest.approx(half, abs=0.001)


def test_shared_texts_of_train_and_test_are_counted_whatever_their_case() -> None:
    splits = {
        "train": Dataset.from_dict({"text": ["Oil  FALLS", "b"]}),
        "test": Dataset.from_dict({"text": ["oil falls"]}),
    }
    assert "1 of 1 test texts are also training texts" in str(shared_text_warning(splits, "news"))
    assert shared_text_warning(splits | {"test": Dataset.from_dict({"text": ["gold falls"]})}, "news") is None


def test_overlap_of_the_files_own_splits_is_a_warning_only_if_there_is_one() -> None:
    rows = {"train": (900, 900), "validation": (60, 60), "test": (60, 60)}
    overlap = {"train/test": 6, "train/validation": 0}
    assert "train/test 6." in str(removed_overlap_warning(report(own=True, near=overlap, **rows)))
    assert removed_overlap_warning(report(own=False, near=overlap, **rows)) is None
    assert removed_overlap_warning(report(own=True, near={"train/test": 0}, **rows)) is None
