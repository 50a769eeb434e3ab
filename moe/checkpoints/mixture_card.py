"""The card of a mixture (`mixture.json`): its backbone, domains, experts, gate and heads.

Reading and writing the folder around it is left to `moe.checkpoints.mixture`.
"""

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from experts.atomic_io import is_safe_relative_path
from experts.domain import Domain
from experts.expert_io import BackboneId, ExpertFolder
from experts.lora import LoraSpec
from moe.model.backbone import BackboneSettings
from moe.model.heads import HeadSettings
from router.gate import GateSettings

FORMAT = 2


def _file_name(name: str) -> str:
    if not is_safe_relative_path(name) or "/" in name:
        raise ValueError("an expert's name is a folder's, without a path")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class DomainCard(BaseModel):
    """One domain of a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    experts: tuple[FileName, ...]
    tasks: dict[str, tuple[str, ...]]

    def to_domain(self) -> Domain:
        """As the experts know it."""
        return Domain(self.name, self.tasks, self.role, len(self.experts), self.experts)


class ExpertOrigin(BaseModel):
    """What an expert was when it came into a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(description="of its adapter's file; another one by now was trained on since")
    seed: int | None = Field(None, description="that it was trained from; none of a plain PEFT adapter")
    steps: int | None = Field(None, description="optimizer steps that it was trained for, by itself")

    @classmethod
    def of(cls, one: ExpertFolder) -> "Origin":
        """Of an expert's folder."""
        return cls(sha256=one.digest, seed=one.card and one.card.seed, steps=one.card and one.card.steps)


class MixtureCard(BaseModel):
    """What a mixture says of itself (`mixture.json`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    stage: str = Field(description="the step that wrote it")
    backbone: BackboneId
    backbone_settings: BackboneSettings
    template: str
    domains: tuple[DomainCard, ...]
    shared: tuple[FileName, ...] = Field(description="experts that are always on")
    layers: dict[str, dict[str, LoraSpec]] = Field(description="by expert, rank and scaling of every layer it touches")
    gate: GateSettings
    heads: HeadSettings
    polarity: bool = Field(description="whether there is a polarity head")
    language: bool = Field(
        False, description="whether the backbone's own language-model head answers, and none of ours"
    )
    seed: int
    steps: int = 0
    metrics: dict[str, float] = Field({}, description="validation metrics")
    data_sha256: dict[str, str] = Field({}, description="SHA-256 of the file of each task")
    origins: dict[str, ExpertOrigin] = Field({}, description="by expert, what it was when it came")
    versions: dict[str, str]

    @property
    def routed(self) -> tuple[str, ...]:
        """The routed experts, in the order of the gates' columns."""
        return tuple(name for domain in self.domains for name in domain.experts)
