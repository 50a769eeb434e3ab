"""Loading of teachers of every kind."""

from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.own_teacher import load_own_teacher
from moe.distill.request import TaskRequest, Teacher
from moe.runs.model_ref import resolve

__all__ = ["TaskRequest", "Teacher", "load_teacher"]


def load_teacher(settings: TeacherSettings, device: str = "auto") -> Teacher:
    """Load a teacher, ready to answer.

    Args:
        settings: which model, and how its labels map to the task's.
        device: of a local model, such as `cpu` or `cuda:1`; `auto` is the device of its own settings, else the first
            GPU, else the CPU.

    Raises:
        Fault: if the model is not found, is broken or is no classifier, or its label mapping does not fit it.
    """
    return load_own_teacher(settings, resolve(settings.model, revision=settings.revision), device)
