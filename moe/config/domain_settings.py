"""Settings of a domain, and of the synthetic sample."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from experts.domain import Kind
from moe.data.schema import TaskSettings


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


def kind_conflicts(kinds: Mapping[str, Kind], given: Mapping[str, bool]) -> list[str]:
    """Conflicts of settings that are defined for one label per row with tasks of another kind, one sentence each.

    Args:
        kinds: kind of each task whose rows have other than one label each.
        given: whether each of these settings is set, by its key.
    """
    task, kind = next(iter(kinds.items()), ("", ""))
    return [
        f"{name} is set, but task {task} is of the kind {kind}, for which it is not defined: remove it, or train this "
        "task in a run of its own"
        for name, is_set in given.items()
        if is_set and kinds
    ]
