"""A column that does not hold what its name says is refused or noted, with the setting that ignores it."""

from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from moe.data.column_checks import ColumnProfile, domain_note
from moe.data.schema import Columns, Record, TaskSettings
from moe.data.validation import validate_records

THREE = TaskSettings(labels=("negative", "neutral", "positive"))
FILE = Path("posts.csv")


def profile(rows: Iterable[dict[str, object]], task: TaskSettings = THREE) -> ColumnProfile:
    """Profile of rows, each with its own text and the labels in turn."""
    columns = ColumnProfile(task)
    records = [
        Record(n, {"id": f"line-{n}", "text": f"text {n}", "label": THREE.labels[n % 3]} | row)
        for n, row in enumerate(rows)
    ]
    for _ in validate_records(records, task, (columns.observe,)):
        pass
    return columns


def faults(rows: Iterable[dict[str, object]], task: TaskSettings = THREE) -> list[str]:
    return [str(fault) for fault in profile(rows, task).faults(FILE, 0.05)]


def notes(rows: Iterable[dict[str, object]], task: TaskSettings = THREE) -> list[str]:
    return profile(rows, task).notes(FILE, 0.05)


def test_column_profile_has_nothing_to_say_about_columns_that_hold_their_name() -> None:
    rows = [{"id": f"r{n}", "score": n % 3 - 1, "split": "Train", "lang": "zh-CN", "domain": "news"} for n in range(60)]
    assert (faults(rows), notes(rows)) == ([], [])


@pytest.mark.parametrize("task", [THREE, TaskSettings()])
def test_column_profile_refuses_scores_that_contradict_labels_with_and_without_a_task(task: TaskSettings) -> None:
    (line,) = faults([{"score": 0.9} for _ in range(30)], task)
    assert "in column 'score' of posts.csv" in line
    assert "`columns: {score: null}`" in line


def test_column_profile_reads_the_labels_that_the_label_map_gives() -> None:
    task = TaskSettings(labels=THREE.labels, label_map={"a": "negative", "b": "positive"})
    rows = [{"label": "ab"[n % 2], "score": 0.8} for n in range(30)]
    assert "rows labelled negative" in faults(rows, task)[0]
    assert faults([{"label": "ab"[n % 2], "score": 2 * (n % 2) - 1} for n in range(30)], task) == []


def test_column_profile_compares_no_label_that_was_cut_from_its_score() -> None:
    task = TaskSettings(labels=THREE.labels, score_cuts=(-0.1, 0.1))
    rows = [{"label": None, "score": score} for score in (0.6, 0.7, 0.9) * 10]
    assert faults(rows, task) == []
    (line,) = notes(rows, task)
    assert "30 scores all have the same sign" in line
    assert notes([{"label": None, "score": score} for score in (-0.6, 0.0, 0.9) * 10], task) == []


def test_column_profile_ignores_the_scores_of_questions() -> None:
    task = TaskSettings(labels=THREE.labels, ask="fpb")
    assert faults([{"score": 0.9} for _ in range(30)], task) == []


@pytest.mark.parametrize(
    "ids",
    [lambda n: "x", lambda n: THREE.labels[n % 3], lambda n: f"company {n % 10}"],
    ids=["constant", "label", "key"],
)
def test_column_profile_refuses_ids_that_repeat(ids: Callable[[int], str]) -> None:
    (line,) = faults([{"id": ids(n)} for n in range(60)])
    assert "`columns: {id: null}`" in line


def test_column_profile_says_if_ids_are_the_labels() -> None:
    (line,) = faults([{"id": THREE.labels[n % 3]} for n in range(60)])
    assert "57 of 60 rows" in line
    assert "which are the labels" in line


def test_column_profile_accepts_ids_that_start_again_in_each_split_and_single_repetitions() -> None:
    assert faults([{"id": str(n % 30), "split": "train" if n < 30 else "test"} for n in range(60)]) == []
    assert faults([{"id": str(max(n, 2))} for n in range(60)]) == []


def test_column_profile_refuses_words_that_are_no_splits_and_names_the_nearest_split() -> None:
    (line,) = faults([{"split": "Trian" if n % 2 else "tset"} for n in range(60)])
    assert "Did you mean test for 'tset', train for 'Trian'?" in line.replace(
        "train for 'Trian', test for 'tset'", "test for 'tset', train for 'Trian'"
    )
    (line,) = faults([{"split": str(n % 10)} for n in range(60)])
    assert "'0', '1', '2' and 7 more in 60 of 60 rows. Rename the values to train, validation or test, or" in line
    assert "`columns: {split: null}`" in line


@pytest.mark.parametrize("value", ["English", "a whole sentence", 7, "0.93"])
def test_column_profile_notes_values_that_are_no_language_codes(value: object) -> None:
    (line,) = notes([{"lang": value} for _ in range(10)])
    assert f"10 of 10 values are none ({str(value)!r})" in line
    assert "`columns: {lang: null}`" in line


def test_domain_note_names_other_domains_unless_only_selects_one() -> None:
    def note(counts: dict[str, int], task: TaskSettings = THREE) -> str | None:
        return domain_note(counts, "news", ["news", "forum"], task, "posts.csv")

    assert note({"news": 40}) is None
    assert note({}) is None
    mixed = note({"news": 40, "forum": 20})
    assert mixed is not None
    assert "'forum' in 20 of 60 rows, other domains of the config" in mixed
    assert "`only: {domain: [news]}`" in mixed
    other = note({"sports": 60})
    assert other is not None
    assert "which the config does not declare" in other
    assert note({"news": 40, "forum": 20}, TaskSettings(only={"domain": ("news",)})) is None
    assert note({"forum": 20}, TaskSettings(columns=Columns(domain=None))) is None
