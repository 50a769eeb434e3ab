"""Rows of a file whose labels are checked or missing: its readable rows with text, target and label."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from experts.domain import Labels
from experts.errors import Fault, suggest
from moe.data.column_names import find_label, label_name
from moe.data.formats.readers import read_records
from moe.data.schema import Columns
from moe.data.text_checks import is_blank, target_problem, text_problem
from moe.inference.spec import InferenceSpec
from moe.inference.text_io import TextSource

_SHOWN = 5


@dataclass(frozen=True)
class LabelColumn:
    """Readable rows of a file (N), in its order.

    Args:
        file: the file.
        lines: line of each row.
        ids: id of each row, `line-N` without one.
        texts: what the model reads.
        targets: entity of each row, None without one.
        labels: as the file names them, None where the cell is empty.
        rejected: rows that cannot be read, by reason.
    """

    file: Path
    lines: Sequence[int]
    ids: Sequence[str]
    texts: Sequence[str]
    targets: Sequence[str | None]
    labels: Sequence[str | None]
    rejected: Mapping[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def labelled(self) -> np.ndarray:
        """Which rows have a label (N,)."""
        return np.array([label is not None for label in self.labels], dtype=bool)

    def select(self, rows: np.ndarray) -> "LabelColumn":
        """Return some rows, given by a mask (N,)."""
        chosen = np.flatnonzero(rows).tolist()
        return replace(
            self,
            lines=[self.lines[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            texts=[self.texts[i] for i in chosen],
            targets=[self.targets[i] for i in chosen],
            labels=[self.labels[i] for i in chosen],
        )

    def for_model(self, spec: InferenceSpec, task: str | None) -> "LabelColumn":
        """Return the rows as a model reads them: without targets if it has no task for them.

        Raises:
            Fault: if it has no such task, or needs a target that a row does not have.
        """
        if spec.needs_target(task) and None in self.targets:
            line = self.lines[self.targets.index(None)]
            raise Fault(
                f"a target in every row of {self.file}", f"none in line {line}", "fill it in, or remove the row"
            )
        return self if spec.reads_targets(task) else replace(self, targets=[None] * len(self))

    def codes(self, labels: Labels) -> np.ndarray:
        """Return the index of each row's label in `labels` (N,), −1 without one.

        Raises:
            Fault: if a label is unknown.
        """
        known = {label: find_label(label, labels) for label in set(self.labels) if label is not None}
        unknown = Counter(label for label in self.labels if label is not None and known[label] is None)
        if unknown:
            names = ", ".join(repr(name) for name, _ in unknown.most_common(_SHOWN))
            first = next(line for line, label in zip(self.lines, self.labels, strict=True) if label in unknown)
            raise Fault(
                f"labels among {', '.join(labels)} in {self.file}",
                f"{names} in {unknown.total()} rows, first in line {first}",
                "correct them, or choose another --task or --label-column",
            )
        return np.array([-1 if label is None else labels.index(known[label] or "") for label in self.labels])


def read_label_column(source: TextSource, label: str, *, needs_label: bool = False) -> LabelColumn:
    """Read the rows of a file with their labels.

    Args:
        source: the file, its text and target columns and its format.
        label: name of the label column.
        needs_label: require that column.

    Raises:
        Fault: if the file cannot be read, lacks a column, or has no readable row.
    """
    file = source.required_file
    columns = Columns(text=source.columns.text, target=source.columns.target, label=label, score=None)
    lines, ids, texts, targets, labels = [], [], [], [], []
    rejected = Counter[str]()
    for record in read_records(
        file, columns, text_format=source.text_format, answer_fields=("label", "score") if needs_label else ()
    ):
        values = record.values
        target = None if is_blank(values.get("target")) else values["target"]
        problem = record.error or text_problem(values.get("text")) or (target and target_problem(target))
        if problem:
            rejected[str(problem).partition(": ")[0]] += 1
            continue
        lines.append(record.line)
        ids.append(str(values["id"]))
        texts.append(str(values["text"]))
        targets.append(None if target is None else str(target))
        labels.append(None if is_blank(name := values.get("label")) else label_name(name))
    if not texts:
        reasons = ", ".join(f"{reason} ({count})" for reason, count in rejected.most_common(_SHOWN))
        raise Fault(f"rows with a text in {file}", f"none: {reasons}" if reasons else "none", "use another file")
    return LabelColumn(file, lines, ids, texts, targets, labels, dict(rejected))


def check_label_task(spec: InferenceSpec, task: str | None, *, routed: bool) -> None:
    """Check that a model answers a file's texts with labels.

    Args:
        task: name of the task; None leaves it open.
        routed: whether the router then chooses among all tasks; else those with a score alone are left out.

    Raises:
        Fault: if the task, or one that may be chosen, has a score alone.
    """
    if task is not None:
        spec.require_labels(task, "labelling")
    elif spec.score_tasks and (routed or len(spec.score_tasks) == len(spec.tasks)):
        found = f"none, and {spec.score_tasks[0]} has a score alone"
        raise Fault("--task with a task that has labels", found, "name one, or use a model with labels")


def label_set(spec: InferenceSpec, task: str | None, values: Sequence[str | None]) -> Labels:
    """Return the labels that a file's labels are among: those of a task, or of the first task that has all of them.

    Without any such task, it is the one with most of them, whose labels a fault then lists.

    Args:
        task: name of the task.
        values: labels of the file.

    Raises:
        Fault: if the model has no such task.
    """
    if task is not None:
        if task not in spec.tasks:
            raise Fault(f"one of the tasks {', '.join(spec.tasks)}", repr(task), suggest(task, spec.tasks))
        return spec.tasks[task].labels
    names = {label for label in values if label is not None}

    def matching(labels: Labels) -> int:
        return sum(find_label(name, labels) is not None for name in names)

    return max((its.labels for its in spec.tasks.values()), key=matching)
