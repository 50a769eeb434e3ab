"""Results of `moe distill`: how good the teachers are, and what the student learns from, and their output."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from moe.console import Table
from moe.results.base import Result


class TeacherResult(Result):
    """A teacher on the validation rows of a task.

    Args:
        name: of the teacher; `together` for the mean of several.
        rows: validation rows that it answered.
        accuracy: on those rows; None without any.
        macro_f1: likewise.
        temperature: with which its probabilities are used; 1 leaves them as they are.
        remark: why the temperature stays 1; None if it was fitted, or not calibrated.
    """

    name: str
    rows: int
    accuracy: float | None = None
    macro_f1: float | None = None
    temperature: float = 1.0
    remark: str | None = None


class DistilledTask(Result):
    """The soft labels of a task.

    Args:
        domain: of the task.
        task: its name.
        read: unlabelled texts in the files of the domain, with different entities for a task with a target; equal ones
            counted once.
        near_held_out: those near a validation or test text of the run, which are left out.
        unlabelled: unlabelled texts with soft labels.
        labelled: labelled training rows with soft labels.
        teachers: each teacher on the validation rows.
        together: the mean of several teachers on the validation rows; None for a single one.
        confidence: mean of the largest probability over the unlabelled texts; None without any.
        file: of the soft labels.
    """

    domain: str
    task: str
    read: int
    near_held_out: int
    unlabelled: int
    labelled: int
    teachers: Sequence[TeacherResult]
    together: TeacherResult | None = None
    confidence: float | None = None
    file: str


class DistillReport(Result):
    """Result of the labelling.

    Args:
        teachers: names of the teachers.
        tasks: the soft labels of each task.
    """

    teachers: Sequence[str]
    tasks: Sequence[DistilledTask]


def labelling_view(report: DistillReport) -> RenderableType:
    """Output of the labelling: one table of texts, and one of the teachers."""
    texts = Table(header_style="bold", title="texts with soft labels")
    for name in ("domain", "task", "unlabelled", "labelled", "near held-out", "confidence"):
        texts.add_column(name, justify="left" if name in ("domain", "task") else "right")
    teachers = Table(header_style="bold", title="teachers on the validation rows")
    for name in ("task", "teacher", "rows", "accuracy", "macro-F1", "temperature"):
        teachers.add_column(name, justify="left" if name in ("task", "teacher") else "right")
    for task in report.tasks:
        texts.add_row(
            escape(task.domain),
            escape(task.task),
            f"{task.unlabelled:,}",
            f"{task.labelled:,}",
            f"{task.near_held_out:,}",
            _figure(task.confidence),
        )
        for each in [*task.teachers, *([task.together] if task.together else [])]:
            figures = (_figure(each.accuracy), _figure(each.macro_f1), f"{each.temperature:.2f}")
            teachers.add_row(escape(task.task), escape(each.name), f"{each.rows:,}", *figures)
    remarks = {
        f"{each.name}, {task.task}: {each.remark}" for task in report.tasks for each in task.teachers if each.remark
    }
    return Group(texts, teachers, *(Text(remark) for remark in sorted(remarks)))


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
