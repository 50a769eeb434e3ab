"""Label Studio: tasks out and annotations back, with the ids of the rows, in both forms of its export."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experts.errors import Fault
from moe.data.formats.readers import read_records
from moe.data.schema import Columns
from moe.inference.text_io import OutputTarget
from moe.labels.label_studio import interface_xml, read_annotations, to_task
from moe.labels.review import ReviewRow
from moe.labels.review_file import convert_annotations, write_review_file

LABELS = ("bad", 'so "so"', "good")


def row(number: int, **values: Any) -> ReviewRow:
    """A row to label."""
    base = {
        "rank": number,
        "line": number + 1,
        "id": f"00{number}",
        "text": f"profit rose {number} %, 利润",
        "label": None,
        "suggested": "good",
        "probability": 0.75,
        "score": 0.5,
    }
    return ReviewRow(**(base | values))


ROWS = [row(3), row(1, text='=SUM("a")\nb'), row(2)]


def annotate(task: Mapping[str, Any], number: int, *choices: str, cancelled: bool = False) -> dict[str, Any]:
    """A task as Label Studio exports it as JSON, with one annotation for each choice."""
    results = [
        {"from_name": "label", "to_name": "text", "type": "choices", "value": {"choices": [choice]}}
        for choice in choices
    ]
    annotations = [{"id": i, "was_cancelled": cancelled, "result": [result]} for i, result in enumerate(results)]
    return {"id": number, "data": task["data"], "annotations": annotations, "predictions": []}


def shorten(task: Mapping[str, Any], choice: str | None) -> dict[str, Any]:
    """A task as Label Studio exports it as JSON-MIN, which puts its own number into `id`."""
    return {**task["data"], "id": 77, "label": choice, "annotator": 1}


def write(folder: Path, content: object) -> Path:
    """Write an export."""
    path = folder / "export.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def tasks_of(folder: Path) -> list[dict[str, Any]]:
    """The tasks that are written for `ROWS`."""
    write_review_file(OutputTarget(folder / "tasks.json"), ROWS, LABELS, "moe-joint")
    tasks: list[dict[str, Any]] = json.loads((folder / "tasks.json").read_text(encoding="utf-8"))
    return tasks


@pytest.mark.parametrize("short", [False, True])
def test_tasks_come_back_as_labelled_rows_with_their_ids(tmp_path: Path, short: bool) -> None:
    tasks, given = tasks_of(tmp_path), ["bad", "good", 'so "so"']
    export = [
        shorten(task, choice) if short else annotate(task, 50 + i, choice)
        for i, (task, choice) in enumerate(zip(tasks, given, strict=True))
    ]
    convert_annotations(write(tmp_path, export), OutputTarget(tmp_path / "rows.csv"))
    records = list(read_records(tmp_path / "rows.csv", answer_fields=("label", "score")))
    back = [(record.values["id"], record.values["text"], record.values["label"]) for record in records]
    assert back == [(its.id, its.text, label) for its, label in zip(ROWS, given, strict=True)]


def test_csv_comes_back_with_labels_that_were_filled_in(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write_review_file(OutputTarget(path), ROWS, LABELS, "moe-joint")
    empty = [record.values for record in read_records(path, Columns())]
    assert [(values["id"], values["text"], values["label"]) for values in empty] == [(r.id, r.text, "") for r in ROWS]
    path.write_text(path.read_text(encoding="utf-8").replace(",,good,", ",bad,good,"), encoding="utf-8")
    assert [record.values["label"] for record in read_records(path, answer_fields=("label", "score"))] == ["bad"] * 3


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_file_without_rows_still_has_its_columns(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"rows.{ending}"
    write_review_file(OutputTarget(path), [], LABELS, "moe-joint")
    assert path.is_file()
    if ending == "csv":
        assert path.read_text() == "rank,line,id,text,label,suggested,probability,score\n"


def test_task_has_the_row_and_a_prediction_for_the_interface() -> None:
    task = to_task(row(1, target="ACME", label="bad"), "moe-joint")
    assert task["data"] == {
        "row_id": "001",
        "line": 2,
        "text": "profit rose 1 %, 利润",
        "target": "ACME",
        "given_label": "bad",
        "rank": 1,
    }
    ((prediction,), interface) = task["predictions"], ElementTree.fromstring(interface_xml(LABELS))  # type: ignore[misc]
    choices = interface.find("Choices")
    assert choices is not None
    (result,) = prediction["result"]  # type: ignore[index, call-overload]
    assert (result["from_name"], result["to_name"]) == (choices.get("name"), choices.get("toName"))
    assert [choice.get("value") for choice in choices] == list(LABELS)
    assert result["value"]["choices"][0] in LABELS


def test_annotations_of_several_people_are_decided_by_their_majority(tmp_path: Path) -> None:
    tasks = tasks_of(tmp_path)
    export = [
        annotate(tasks[0], 1, "good", "bad", "good"),
        annotate(tasks[1], 2, "good", "bad"),
        annotate(tasks[2], 3, "good", cancelled=True),
    ]
    annotations = read_annotations(write(tmp_path, export))
    assert [(its.id, its.label, its.annotations) for its in annotations.rows] == [("003", "good", 3)]
    assert annotations.rows[0].agreement == pytest.approx(2 / 3, abs=1e-6)
    assert (annotations.tasks, annotations.skipped, annotations.tied) == (3, 1, ["001"])


def test_tasks_that_were_not_made_here_are_named_by_their_own_id(tmp_path: Path) -> None:
    tasks = [{"data": {"id": "mine", "text": "a b"}}, {"data": {"text": "c d"}}]
    rows = read_annotations(write(tmp_path, [annotate(task, 8 + i, "good") for i, task in enumerate(tasks)])).rows
    assert [its.id for its in rows] == ["mine", "task-9"]


TASK = {"data": {"row_id": "a", "text": "profit rose"}}
TWO = annotate(TASK, 1, "good")
TWO["annotations"][0]["result"][0]["value"]["choices"] = ["good", "bad"]
OTHER_TEXT = {"data": {"row_id": "a", "text": "sales fell"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "found an empty list"),
        ({"tasks": []}, "a list of tasks"),
        ([1], "a list of tasks"),
        ([annotate({"data": {"row_id": "a"}}, 1, "good")], "a text under `text` in task 1"),
        ([annotate(TASK, 1)], "annotations with choices named 'label'"),
        ([TWO], "one choice in each annotation of task 1 .*found 2 choices"),
        ([annotate(TASK, 1, "good"), annotate(OTHER_TEXT, 2, "good")], "one text for each row_id"),
        ([annotate(TASK, 1, "good") | {"annotations": [{"result": [{"from_name": "label", "value": 3}]}]}], "no list"),
    ],
)
def test_other_files_are_refused_and_nothing_is_written(tmp_path: Path, content: object, message: str) -> None:
    export = write(tmp_path, content)
    with pytest.raises(Fault, match=message):
        convert_annotations(export, OutputTarget(tmp_path / "rows.csv"))
    assert [path.name for path in tmp_path.iterdir()] == ["export.json"]


def test_export_is_never_replaced(tmp_path: Path) -> None:
    export = write(tmp_path, [annotate(TASK, 1, "good")])
    link = tmp_path / "rows.csv"
    link.symlink_to(export)
    with pytest.raises(Fault, match="the input itself"):
        convert_annotations(export, OutputTarget(link, overwrite=True))
