"""Loading of teachers of every kind."""

from pathlib import Path

from moe.data.distilled.teacher_settings import TeacherSettings
from moe.distill.endpoint_teacher import EndpointTeacher
from moe.distill.own_teacher import load_own_teacher
from moe.distill.request import TaskRequest, Teacher
from moe.distill.transformers_teacher import is_transformers_folder, load_transformers_teacher
from moe.runs.model_ref import download, is_hub_name, resolve

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
    if settings.endpoint is not None:
        return EndpointTeacher(settings)
    name, revision = settings.model, settings.revision
    on_hub = is_hub_name(name, revision)
    folder = download(name, revision) if on_hub else Path(name)
    if is_transformers_folder(folder) and (on_hub or revision is None):
        return load_transformers_teacher(settings, folder, device)
    model = resolve(folder) if on_hub else resolve(name, revision=revision)
    return load_own_teacher(settings, model, device)
