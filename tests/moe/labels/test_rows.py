"""Rows with labels: what is read, what is rejected, and which labels they are among."""

from pathlib import Path

import numpy as np
import pytest

from experts.errors import Fault
from moe.inference.spec import InferenceSpec, TaskInferenceSpec
from moe.inference.text_io import TextSource
from moe.labels.rows import label_set, read_label_column


def spec(**tasks: tuple[str, ...]) -> InferenceSpec:
    """A specification of tasks by name; one named `entities` has a target."""
    return InferenceSpec(
        template="{text}",
        max_length=16,
        pooling="mean",
        experts=("news",),
        domains=(),
        tasks={
            name: TaskInferenceSpec(
                labels=labels,
                domain="news",
                head=name,
                columns=tuple(range(len(labels))),
                temperature=1.0,
                sign=None,
                target=name == "entities",
            )
            for name, labels in tasks.items()
        },
        heads={},
        polarity=None,
    )


def source(folder: Path, content: str, name: str = "rows.csv") -> TextSource:
    """A file with this content."""
    path = folder / name
    path.write_text(content, encoding="utf-8")
    return TextSource(file=path)


def test_label_column_keeps_lines_and_ids_and_counts_what_cannot_be_read(tmp_path: Path) -> None:
    content = "id,text,label\na,profit rose,good\nb,,bad\n,sales fell,\nd,cash,1.0\n"
    column = read_label_column(source(tmp_path, content), "label")
    assert (column.lines, column.ids) == ([2, 4, 5], ["a", "line-4", "d"])
    assert column.labels == ["good", None, "1"]
    assert column.labelled.tolist() == [True, False, True]
    assert column.rejected == {"missing text": 1}
    assert column.select(column.labelled).texts == ["profit rose", "cash"]


def test_label_column_is_required_only_where_labels_are_checked(tmp_path: Path) -> None:
    texts = source(tmp_path, "text\nprofit rose\n")
    assert read_label_column(texts, "label").labels == [None]
    with pytest.raises(Fault, match=r"a column 'label' in rows\.csv"):
        read_label_column(texts, "label", needs_label=True)
    with pytest.raises(Fault, match="a column 'stance'"):
        read_label_column(texts, "stance")


@pytest.mark.parametrize(
    ("content", "reason"), [("text,label\n", "none"), ("text,label\n,good\n", r"missing text \(1\)")]
)
def test_label_column_of_a_file_without_texts_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(Fault, match=f"rows with a text.*{reason}"):
        read_label_column(source(tmp_path, content), "label")


def test_codes_refuse_labels_that_the_task_does_not_have(tmp_path: Path) -> None:
    column = read_label_column(source(tmp_path, "text,label\na b,good\nc d,postive\ne f,\n"), "label")
    with pytest.raises(Fault, match=r"labels among bad, good.*'postive' in 1 rows, first in line 3"):
        column.codes(("bad", "good"))
    assert column.codes(("postive", "good")).tolist() == [1, 0, -1]
    assert column.codes(("postive", "good")).dtype == np.int64


def test_label_set_is_that_of_the_task_or_of_the_first_task_with_all_labels() -> None:
    tasks = spec(tone=("bad", "good"), mood=("bad", "flat", "good"))
    assert label_set(tasks, None, ["bad", None]) == ("bad", "good")
    assert label_set(tasks, None, ["bad", "flat"]) == ("bad", "flat", "good")
    assert label_set(tasks, "mood", ["bad"]) == ("bad", "flat", "good")
    with pytest.raises(Fault, match=r"one of the tasks tone, mood; found 'moot'\. Did you mean mood"):
        label_set(tasks, "moot", [])


def test_targets_are_dropped_or_required_as_the_model_reads_them(tmp_path: Path) -> None:
    column = read_label_column(source(tmp_path, "text,target,label\nA beats B,A,good\nC falls,,bad\n"), "label")
    assert column.targets == ["A", None]
    assert column.for_model(spec(tone=("bad", "good")), None).targets == [None, None]
    assert column.for_model(spec(tone=("bad", "good"), entities=("bad", "good")), None).targets == ["A", None]
    with pytest.raises(Fault, match=r"a target in every row.*none in line 3"):
        column.for_model(spec(entities=("bad", "good")), None)
