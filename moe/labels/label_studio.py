"""Label Studio: tasks with predictions to import there, and its exports read back as labelled rows.

A task names its row by `row_id`, since Label Studio's short export (JSON-MIN, CSV) has numbers of its own under `id`.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from experts.domain import Labels
from experts.errors import Fault
from experts.json_io import OMIT_NONE, Json
from experts.reading import read_json
from moe.data.column_names import label_name
from moe.data.formats.refusals import check_regular_file
from moe.data.text_checks import is_blank, text_problem
from moe.labels.review import ReviewRow

CONTROL, OBJECT, ROW_ID = "label", "text", "row_id"
"""Names in the labelling interface of the choices and of the text, and the key of a row's id in its task."""


def interface_xml(labels: Labels, *, target: bool = False) -> str:
    """Return the labelling interface (XML) that the tasks fit.

    Args:
        labels: that a person may choose.
        target: show the target above the text.
    """
    choices = "".join(f"<Choice value={quoteattr(label)}/>" for label in labels)
    header = '<Header value="$target"/>' if target else ""
    return (
        f'<View>{header}<Text name="{OBJECT}" value="$text"/>'
        f'<Choices name="{CONTROL}" toName="{OBJECT}" choice="single" required="true">{choices}</Choices></View>'
    )


def to_task(row: ReviewRow, model: str) -> dict[str, Json]:
    """Return a row as a task with one prediction.

    Args:
        row: to review or to label.
        model: name of the model that suggests the label.
    """
    data: dict[str, Json] = {ROW_ID: row.id, "line": row.line, "text": row.text}
    data |= {} if row.target is None else {"target": row.target}
    data |= {} if row.label is None else {"given_label": row.label}
    choice: dict[str, Json] = {
        "from_name": CONTROL,
        "to_name": OBJECT,
        "type": "choices",
        "value": {"choices": [row.suggested]},
    }
    prediction: dict[str, Json] = {"model_version": model, "score": row.probability, "result": [choice]}
    return {"data": data | {"rank": row.rank}, "predictions": [prediction]}


@dataclass(frozen=True, kw_only=True)
class AnnotatedRow:
    """A row with the label that most annotators chose.

    Args:
        id: of the row.
        text: of the row.
        target: entity that the label is about; None without one.
        label: that most annotators chose.
        annotations: number of annotations.
        agreement: share of them with this label.
    """

    id: str
    text: str
    target: str | None = field(default=None, metadata=OMIT_NONE)
    label: str
    annotations: int
    agreement: float


@dataclass(frozen=True)
class Annotations:
    """What an export holds.

    Args:
        file: the export.
        tasks: number of rows.
        skipped: rows without an annotation, or only cancelled ones.
        tied: ids of the rows of which two labels have most votes; they have no row below.
        labels: rows by label.
        rows: labelled rows, in the order of the export.
    """

    file: str
    tasks: int
    skipped: int
    tied: Sequence[str]
    labels: Mapping[str, int]
    rows: Sequence[AnnotatedRow] = field(repr=False)


@dataclass
class _Votes:
    """Text, target and chosen labels of one row."""

    text: str
    target: str | None
    labels: list[str] = field(default_factory=list)


def read_annotations(path: Path, control: str = CONTROL) -> Annotations:
    """Read an export of Label Studio, JSON or JSON-MIN.

    Annotations of several people are one row with the label of most; a cancelled annotation counts as none.

    Args:
        path: the export.
        control: name of the choices in the labelling interface.

    Raises:
        Fault: if the file is no such export, a task has no text, two tasks of one id have different texts, or an
            annotation has several choices.
    """
    check_regular_file(path)
    if not path.is_file():
        raise Fault(f"an export of Label Studio at {path}", "no such file", "correct the path")
    tasks = read_json(path)
    if not isinstance(tasks, list) or not tasks or not all(isinstance(task, dict) for task in tasks):
        content = "an empty list" if tasks == [] else "other JSON"
        raise Fault(f"a list of tasks in {path}", content, "export the project from Label Studio as JSON or JSON-MIN")
    votes: dict[tuple[str, str | None], _Votes] = {}
    for number, task in enumerate(tasks, 1):
        where = f"task {number} of {path}"
        data = task["data"] if isinstance(task.get("data"), dict) else task
        row_id, text = _id_of(task, data), data.get("text")
        if problem := text_problem(text):
            raise Fault(f"a text under `text` in {where}", problem, "name the text `text` in the task's data")
        target = None if is_blank(data.get("target")) else str(data["target"])
        entry = votes.setdefault((row_id, target), _Votes(str(text), target))
        if entry.text != text:
            raise Fault(f"one text for each {ROW_ID} in {path}", f"two of {row_id}", "give each row its own id")
        entry.labels += _labels_of(task, control, where)
    rows = {name: entry for name, entry in votes.items() if entry.labels}
    if not rows:
        remedy = f"annotate tasks before the export, with choices named {control!r}, or name them with --choices"
        raise Fault(f"annotations with choices named {control!r} in {path}", "none", remedy)
    decided = {name: label for name, entry in rows.items() if (label := _majority(entry.labels)) is not None}
    return Annotations(
        file=str(path),
        tasks=len(votes),
        skipped=len(votes) - len(rows),
        tied=[row_id for row_id, target in rows if (row_id, target) not in decided],
        labels=dict(Counter(decided.values()).most_common()),
        rows=[
            AnnotatedRow(
                id=name[0],
                text=rows[name].text,
                target=rows[name].target,
                label=label,
                annotations=len(rows[name].labels),
                agreement=round(rows[name].labels.count(label) / len(rows[name].labels), 6),
            )
            for name, label in decided.items()
        ],
    )


def _id_of(task: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The id of a row: `row_id`, else the id in its data, else the task's number in Label Studio."""
    named = data.get(ROW_ID, data.get("id") if data is not task else None)
    return f"task-{task.get('id')}" if is_blank(named) else label_name(named)


def _labels_of(task: Mapping[str, Any], control: str, where: str) -> Iterator[str]:
    """The chosen label of each annotation of a task, in either form of the export."""
    if "annotations" not in task:
        if not is_blank(choice := task.get(control)):
            yield _single(choice["choices"] if isinstance(choice, dict) and "choices" in choice else [choice], where)
        return
    for annotation in task["annotations"] or ():
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or ():
            if isinstance(result, dict) and result.get("from_name") == control:
                value = result.get("value")
                yield _single(value.get("choices") if isinstance(value, dict) else None, where)


def _single(choices: object, where: str) -> str:
    """The only choice of an annotation.

    Raises:
        Fault: if there are none or several.
    """
    if not isinstance(choices, list) or len(choices) != 1 or is_blank(choices[0]):
        content = f"{len(choices)} choices" if isinstance(choices, list) else "no list of choices"
        raise Fault(f"one choice in each annotation of {where}", content, 'set choice="single" in the interface')
    return label_name(choices[0])


def _majority(labels: Sequence[str]) -> str | None:
    """The most frequent label; None if two are."""
    (label, most), *others = Counter(labels).most_common(2)
    return None if others and others[0][1] == most else label
