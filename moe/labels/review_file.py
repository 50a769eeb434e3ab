"""The file that rows to review are written to: tasks for Label Studio, or rows in any format of `moe.data.formats`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.markup import escape

from experts.atomic_io import write_json
from experts.domain import Labels
from experts.json_io import json_object
from experts.outputs import check_output_file
from moe.console import Table, info
from moe.data.formats.writers import open_writer
from moe.inference.text_io import OutputTarget
from moe.labels.label_studio import CONTROL, AnnotatedRow, Annotations, interface_xml, read_annotations, to_task
from moe.labels.review import ReviewRow

LABEL_STUDIO = ".json"
"""Ending of a file of tasks for Label Studio."""
_COLUMNS = ("rank", "line", "id", "text", "label", "suggested", "probability", "score")
_ANNOTATED = ("id", "text", "label", "annotations", "agreement")


def check_review_file(target: OutputTarget, inputs: Sequence[Path]) -> None:
    """Check a file for rows to review before anything slow is loaded; with the ending .json it is for Label Studio.

    Raises:
        Fault: as `OutputTarget.check`.
    """
    if _is_for_label_studio(target) and not target.spreadsheet:
        assert target.path is not None
        check_output_file(target.path, inputs, target.overwrite)
    else:
        target.check(inputs)


def write_review_file(target: OutputTarget, rows: Sequence[ReviewRow], labels: Labels, model: str) -> None:
    """Write rows to review, all or none; without a path nothing is written.

    Args:
        target: the file, which `target.lock` holds.
        rows: in the order of their rank.
        labels: that a person may choose.
        model: name of the model, for Label Studio.

    Raises:
        Fault: if the file cannot be written, or exists by now.
    """
    if target.path is None:
        return
    if not _is_for_label_studio(target):
        _write_rows(target, rows, _COLUMNS)
        return
    check_output_file(target.path, (), target.overwrite)
    write_json(target.path, [to_task(row, model) for row in rows])
    interface = interface_xml(labels, target=any(row.target is not None for row in rows))
    info(f"labelling interface of the project in Label Studio:\n{escape(interface)}")


def convert_annotations(path: Path, target: OutputTarget, control: str = CONTROL) -> Annotations:
    """Write the labelled rows of an export of Label Studio to a file, and return them.

    Args:
        path: the export.
        target: the file.
        control: see `read_annotations`.

    Raises:
        Fault: as `read_annotations` and `OutputTarget.check`.
    """
    target.check([path])
    with target.lock():
        annotations = read_annotations(path, control)
        _write_rows(target, annotations.rows, _ANNOTATED)
    return annotations


def annotations_view(annotations: Annotations) -> RenderableType:
    """Rows by label, as `moe data from-label-studio` prints them."""
    title = f"{annotations.file}: {len(annotations.rows):,} of {annotations.tasks:,} rows have a label"
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    table.add_column("label")
    table.add_column("rows", justify="right")
    for label, count in annotations.labels.items():
        table.add_row(escape(label), f"{count:,}")
    ties = f"{len(annotations.tied):,} with as many votes for another label: {', '.join(annotations.tied[:5])}"
    lines = [
        *([f"{annotations.skipped:,} rows without an annotation"] if annotations.skipped else []),
        *([ties] if annotations.tied else []),
    ]
    return Group(table, *map(escape, lines))


def _write_rows(target: OutputTarget, rows: Iterable[ReviewRow | AnnotatedRow], columns: Sequence[str]) -> None:
    assert target.path is not None
    with open_writer(target.path, columns, target.spreadsheet) as writer:
        for row in rows:
            writer.write(json_object(row))
        check_output_file(target.path, (), target.overwrite)


def _is_for_label_studio(target: OutputTarget) -> bool:
    return target.path is not None and target.path.suffix.lower() == LABEL_STUDIO
