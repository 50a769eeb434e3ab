"""Settings of a domain, and of the synthetic sample."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field

from experts.domain import CLASSES, Domain
from moe.data.schema import TaskSettings
from moe.kinds.registry import task_kind


class SampleSettings(BaseModel):
    """Settings of the synthetic sample, with which the pipeline can be tried without data."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rows: int = Field(2400, ge=60, le=10**7, description="texts per domain; more takes longer")
    seed: int = Field(13, ge=0, lt=2**31, description="seed of the generator; each seed gives different texts")
    dated: bool = Field(
        False, description="add the columns published_at and entity, for splits by time; the texts are the same"
    )


class DomainSettings(TaskSettings):
    """A domain: a single task, with its settings here, or several under `tasks`."""

    corpus: tuple[str, ...] = Field(
        (), description="plain-text files to pre-train on, one document per line, relative to the data folder"
    )
    unlabelled: tuple[str, ...] = Field(
        (),
        description="files of texts without labels, relative to the data folder; they train only the router, to "
        "recognize the domain",
    )
    max_unlabelled_rows: int = Field(2000, ge=1, le=10**9, description="most texts without labels, a random sample")
    role: str = Field("", description="group of this domain's experts in `team` gates; by default the domain's name")
    experts: int = Field(
        1, ge=1, le=1000, description="number of experts of this domain, each trained from a different seed"
    )
    tasks: dict[str, TaskSettings] = Field(
        default_factory=dict, description="the domain's tasks by name, if it has several label sets"
    )


def kind_conflicts(domains: Sequence[Domain], given: Mapping[str, bool], trains_scores: bool) -> list[str]:
    """Conflicts of settings with tasks of a kind that they are not defined for, one sentence each.

    Args:
        domains: of the run.
        given: whether each setting that is defined for one label per row is set, by its key.
        trains_scores: whether the polarity loss is used.
    """
    kinds = {task: kind for domain in domains for task, kind in domain.kinds.items()}
    task, kind = next(
        ((task, kind) for task, kind in kinds.items() if not task_kind(kind).has_class_weights), ("", CLASSES)
    )
    conflicts = [
        f"{name} is set, but task {task} is of the kind {kind}, for which it is not defined: remove it, or train this "
        "task in a run of its own"
        for name, is_set in given.items()
        if is_set and task
    ]
    unlabelled = [task for task, kind in kinds.items() if not task_kind(kind).has_labels]
    if unlabelled and not trains_scores:
        conflicts.append(
            f"losses.without contains polarity, the only loss of task {unlabelled[0]}, which has a score "
            "alone: remove it"
        )
    return conflicts
