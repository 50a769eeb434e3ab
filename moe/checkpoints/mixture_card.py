"""The card of a mixture (`mixture.json`): its backbone, domains, experts, gate and heads."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from experts.atomic_io import is_safe_relative_path
from experts.domain import Domain, Kind
from experts.expert_io import BackboneId, ExpertFolder, InitOrigin
from experts.lora import LoraSpec
from moe.model.backbone import BackboneSettings
from moe.model.heads import HeadSettings
from moe.model.mode import Routing
from router.gate_settings import GateSettings

FORMAT = 2


def _file_name(name: str) -> str:
    if not is_safe_relative_path(name) or "/" in name:
        raise ValueError("an expert's name must be a folder name, without a path")
    return name


FileName = Annotated[str, AfterValidator(_file_name)]


class DomainCard(BaseModel):
    """One domain of a mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    role: str
    experts: tuple[FileName, ...]
    tasks: dict[str, tuple[str, ...]]
    target_tasks: tuple[str, ...] = Field((), description="those of its tasks whose rows name a target")
    kinds: dict[str, Kind] = Field({}, description="kind of each task that is not of the kind `classes`")

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `kinds` without any, so that earlier releases read the card."""
        card: dict[str, Any] = serialize(self)
        return card if self.kinds else {name: value for name, value in card.items() if name != "kinds"}

    def to_domain(self) -> Domain:
        """Return the domain as `experts` defines it."""
        experts = self.experts
        return Domain(self.name, self.tasks, self.role, len(experts), experts, self.target_tasks, self.kinds)


class ExpertOrigin(BaseModel):
    """An expert as it was when it was added to the mixture."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: str = Field(
        description="hash of its adapter file then; a different hash today means that it was trained further"
    )
    seed: int | None = Field(None, description="seed of its training; none for a plain PEFT adapter")
    steps: int | None = Field(None, description="optimizer steps of its own training")
    init: InitOrigin | None = Field(None, description="the trained expert that it started from; none for a fresh one")

    @classmethod
    def of(cls, expert: ExpertFolder) -> "ExpertOrigin":
        """Return the origin of an expert read from its own folder."""
        card = expert.card
        if card is None:
            return cls(sha256=expert.digest)
        return cls(sha256=expert.digest, seed=card.seed, steps=card.steps, init=card.init)


class RoutingFigures(BaseModel):
    """Metrics of one routing on validation rows, averaged over tasks."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    macro_f1: float = Field(description="0 to 1")
    ccc: float | None = Field(None, description="of tasks with a score alone, −1 to 1; null without any")
    log_loss: float = Field(description="mean negative log-probability of the true label; less is better")
    ece: float = Field(description="expected calibration error, 0 to 1; less is better")
    skipped: float = Field(description="share of a text's experts that were not computed, mean over texts, 0 to 1")


class RoutingDecision(BaseModel):
    """The cheapest routing that is as good as soft routing on validation rows; what routing `auto` is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    choice: Routing
    prune: float = Field(description="gate.prune, below which `pruned` drops weights")
    rows: int = Field(description="number of labelled validation rows")
    figures: dict[Routing, RoutingFigures] = Field(description="by routing that was compared")

    @property
    def sentence(self) -> str:
        """What was chosen and why, for people."""
        scores = ", ".join(f"{name} {its.macro_f1:.4f}" for name, its in self.figures.items())
        return f"Routing `auto` is `{self.choice}`: macro-F1 on {self.rows:,} validation rows {scores}."


class MixtureCard(BaseModel):
    """Metadata of a mixture (`mixture.json`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    stage: str = Field(description="training stage or command that wrote it")
    backbone: BackboneId
    backbone_settings: BackboneSettings
    template: str
    domains: tuple[DomainCard, ...]
    shared: tuple[FileName, ...] = Field(description="experts that are always on")
    layers: dict[str, dict[str, LoraSpec]] = Field(
        description="by expert, rank and scaling of every layer that its adapter touches"
    )
    gate: GateSettings
    heads: HeadSettings
    polarity: bool = Field(description="whether there is a polarity head")
    language: bool = Field(False, description="whether it is a language model, which uses the backbone's own head")
    seed: int
    steps: int = 0
    start: str | None = Field(
        None,
        description="hash of the weights of the mixture that its last stage started from; none of a merge or a change "
        "of experts",
    )
    metrics: dict[str, float] = Field({}, description="validation metrics")
    data_sha256: dict[str, str] = Field({}, description="SHA-256 of the file of each task")
    origins: dict[str, ExpertOrigin] = Field({}, description="by expert, hash and training when it was added")
    earlier_routers: dict[FileName, tuple[str, ...]] = Field(
        {},
        description="by expert that joined the mixture, the routed experts before it, whose router is in "
        "`earlier/EXPERT.safetensors`; none if that router's weights are still part of the router",
    )
    routing: RoutingDecision | None = Field(
        None, description="what routing `auto` is, decided after training; none means soft"
    )
    versions: dict[str, str]

    @property
    def routed(self) -> tuple[str, ...]:
        """Names of the routed experts, in the order of the gates' columns."""
        return tuple(name for domain in self.domains for name in domain.experts)
