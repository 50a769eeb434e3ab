"""Training stages as data: their trainable parts, routing, losses and settings; one loop trains all of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from experts.cards import EXPERTS
from experts.yaml_io import RawSettings
from router.registry import WeightingKind

TrainablePart = Literal["experts", "router", "heads"]


@dataclass(frozen=True)
class Stage:
    """A training stage, one row of the table in method 5.

    Args:
        name: also the key of its settings in the config.
        routed: whether the router decides; otherwise one expert is always active.
        trains: the trainable parts.
        outer_losses: the losses that the outer level weights.
        folder: output folder below the run folder.
    """

    name: str
    routed: bool
    trains: tuple[TrainablePart, ...]
    outer_losses: tuple[str, ...]
    folder: str


PRETRAIN = Stage("pretrain", routed=False, trains=("experts",), outer_losses=(), folder=EXPERTS)
SHARED = Stage("shared", routed=False, trains=("experts", "heads"), outer_losses=(), folder=f"{EXPERTS}/shared")
EXPERT = Stage("expert", routed=False, trains=("experts", "heads"), outer_losses=(), folder=EXPERTS)
WARMUP = Stage(
    "warmup", routed=True, trains=("router", "heads"), outer_losses=("domain", "balance"), folder="router-warmup"
)
JOINT = Stage(
    "joint",
    routed=True,
    trains=("experts", "router", "heads"),
    outer_losses=("sentiment", "domain", "balance"),
    folder="moe-joint",
)
INSTRUCT = Stage(
    "instruct",
    routed=True,
    trains=("experts", "router"),
    outer_losses=("sentiment", "domain", "balance"),
    folder="moe-instruct",
)
ADAPT = Stage(
    "adapt", routed=True, trains=("router", "heads"), outer_losses=("domain", "balance"), folder="moe-adapted"
)
MERGED = "moe-init"
STAGES = {stage.name: stage for stage in (PRETRAIN, SHARED, EXPERT, WARMUP, JOINT, INSTRUCT, ADAPT)}


class StageSettings(BaseModel):
    """Settings of one stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(3.0, gt=0, le=10**6, description="epochs over the training rows; ignored if steps is set")
    steps: int | None = Field(None, ge=1, le=10**9, description="optimizer steps, instead of epochs")
    min_steps: int = Field(
        1, ge=1, le=10**9, description="fewest optimizer steps of `epochs`: with few rows, an epoch is only a few steps"
    )
    max_steps: int | None = Field(
        None, ge=1, le=10**9, description="most optimizer steps of `epochs`; null is no limit"
    )
    batch_size: int = Field(16, ge=1, le=10**6, description="texts per micro-batch and process; more takes memory")
    accumulate: int = Field(
        1,
        ge=1,
        le=10**6,
        description="micro-batches per optimizer step, with the result of one large batch; saves memory",
    )
    lr: float = Field(1e-3, gt=0, le=10, description="AdamW learning rate of the experts")
    router_lr: float = Field(1e-3, gt=0, le=10, description="AdamW learning rate of the router")
    head_lr: float = Field(1e-3, gt=0, le=10, description="AdamW learning rate of the heads")
    warmup: float = Field(
        0.06, ge=0, le=10**9, description="warm-up steps of the learning rate; below 1, a fraction of all steps"
    )
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field(
        "cosine", description="learning-rate schedule after warm-up"
    )
    weight_decay: float = Field(0.0, ge=0, le=100, description="weight decay of AdamW; more pulls weights to zero")
    max_grad_norm: float = Field(1.0, gt=0, le=1e12, description="gradients are clipped to this global norm")
    evals: int = Field(4, ge=1, le=10**6, description="evaluations during the stage; the best weights are retained")
    patience: int = Field(3, ge=1, le=10**6, description="evaluations without improvement after which the stage stops")
    nonfinite: int = Field(
        3,
        ge=0,
        le=10**6,
        description="consecutive steps with a non-finite loss or gradient that are skipped; one more stops the stage",
    )
    keep: int = Field(2, ge=1, le=10**6, description="checkpoints retained while the stage runs")
    sampling_temperature: float = Field(
        2.0,
        ge=1,
        le=10**6,
        description="rows per domain ∝ size^(1/temperature): 1 is proportional, more samples domains more evenly",
    )

    @model_validator(mode="after")
    def _check_steps(self) -> "StageSettings":
        if self.max_steps is not None and self.max_steps < self.min_steps:
            raise ValueError(f"max_steps {self.max_steps} is below min_steps {self.min_steps}: raise it")
        return self

    def count_steps(self, steps_per_epoch: int) -> int:
        """Number of optimizer steps: `steps`, or those of `epochs` within `min_steps` and `max_steps`."""
        if self.steps is not None:
            return self.steps
        steps = max(self.min_steps, round(self.epochs * steps_per_epoch))
        return steps if self.max_steps is None else min(self.max_steps, steps)

    def limited_epochs(self, steps_per_epoch: int) -> float | None:
        """Number of epochs, below `epochs`, that `max_steps` leaves of the stage; None if it does not limit them."""
        steps = self.count_steps(steps_per_epoch)
        limited = self.steps is None and steps < round(self.epochs * steps_per_epoch)
        return steps / steps_per_epoch if limited else None


STAGE_DEFAULTS: dict[str, dict[str, Any]] = {
    "pretrain": {"epochs": 1.0, "batch_size": 8, "lr": 5e-4, "evals": 6, "sampling_temperature": 1.0},
    "shared": {"batch_size": 32, "min_steps": 300, "max_steps": 3000, "evals": 6},
    "expert": {"min_steps": 150},
    "warmup": {"steps": 500, "batch_size": 32, "router_lr": 3e-3, "head_lr": 3e-4, "evals": 1},
    "joint": {"epochs": 0.5, "batch_size": 32, "lr": 3e-5, "head_lr": 3e-5, "router_lr": 3e-5, "evals": 2},
    "instruct": {"epochs": 1.0, "lr": 3e-4, "router_lr": 3e-4},
    "adapt": {"steps": 300, "evals": 3, "head_lr": 3e-4},
}
"""By stage, where its defaults differ from those of `StageSettings`; a config that gives some keys keeps the others."""
EXPERT_ON_SHARED: dict[str, Any] = {"epochs": 1.0, "lr": 5e-4, "head_lr": 5e-4, "min_steps": 60}
"""Defaults of the stage `expert` on top of a shared expert, from which the experts start."""


def fill_stage(given: Mapping[str, Any], defaults: Mapping[str, Any]) -> RawSettings:
    """Return the settings of a stage; `epochs` replace steps, and a limit of steps, that only the defaults have."""
    replaced = ("steps", "max_steps") if "epochs" in given else ()
    return {key: value for key, value in defaults.items() if key not in replaced} | dict(given)


def _default(stage: str) -> StageSettings:
    return StageSettings(**STAGE_DEFAULTS[stage])


class StagesSettings(BaseModel):
    """Settings of every stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrain: StageSettings = _default("pretrain")
    shared: StageSettings = _default("shared")
    expert: StageSettings = _default("expert")
    warmup: StageSettings = _default("warmup")
    cache_trunk: bool = Field(
        False,
        description="cache the trunk's states of training rows on disk, so that stages skip the trunk; takes much disk",
    )
    recompute: bool = Field(
        False, description="activation checkpointing: recompute layers in the backward pass; less memory, more time"
    )
    shard: bool = Field(
        False, description="shard the backbone's weights over processes (FSDP2), so that each holds a part of them"
    )
    joint: StageSettings = _default("joint")
    instruct: StageSettings = _default("instruct")
    adapt: StageSettings = _default("adapt")
    replay: int = Field(
        1000, ge=1, le=10**9, description="rows of each old domain replayed when an expert is added; more forgets less"
    )
    adapt_router: Literal["all", "new_expert"] = Field(
        "all",
        description="what `moe expert add` trains of the router: all of it, or only the new expert's row, beside the "
        "frozen rows of the others",
    )
    adapt_heads: bool = Field(
        True,
        description="whether `moe expert add` also trains the new expert's heads; without, it need not run the layers "
        "with experts, which is several times as fast",
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, raw: Any) -> Any:
        """Keep the defaults of a stage of which a config gives only some keys."""
        if not isinstance(raw, Mapping):
            return raw
        filled = {
            name: fill_stage(raw[name], defaults)
            for name, defaults in STAGE_DEFAULTS.items()
            if isinstance(raw.get(name), Mapping)
        }
        return dict(raw) | filled


class LossSettings(BaseModel):
    """How losses are formed and weighted (method 3 and 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: Literal["cross_entropy", "dao", "effective"] = Field(
        "dao",
        description="class weights: none, DAO's imbalance loss (eq. 12 to 14), or effective numbers",
    )
    effective_beta: float = Field(
        0.9999, ge=0, lt=1, description="β of effective numbers: 0 weights classes equally, towards 1 by 1 / rows"
    )
    focal: float = Field(0.0, ge=0, le=100, description="γ of the focal factor (1 - p_true)^γ; more ignores easy rows")
    smoothing: float = Field(0.1, ge=0, lt=1, description="label smoothing: share of the target spread over all labels")
    inner: WeightingKind = Field("dao", description="how the class and polarity losses are weighted")
    measured: Literal["state", "parameters"] = Field(
        "state",
        description="where the inner level measures gradients: pooled state, or experts' weights (the paper's; slower)",
    )
    outer: WeightingKind = Field("dao", description="how the sentiment, domain and balance losses are weighted")
    constants: dict[Literal["classes", "polarity", "domain", "balance"], Annotated[float, Field(ge=0, le=10**6)]] = (
        Field(
            {"classes": 1.0, "polarity": 1.0, "domain": 1.5, "balance": 0.05},
            description="weights of constant levels; a loss that is not listed retains its default",
        )
    )
    balance: Literal["kl", "usage", "text"] = Field(
        "kl",
        description="balance loss: KL to the domains' shares, 1 - H(mean gates), or FinTeamExperts' per-text entropy",
    )

    without: tuple[Literal["polarity", "domain", "balance"], ...] = Field(
        (), description="losses to leave out, for ablations"
    )

    @model_validator(mode="after")
    def _fill(self) -> "LossSettings":
        full = {"classes": 1.0, "polarity": 1.0, "domain": 1.5, "balance": 0.05} | self.constants
        object.__setattr__(self, "constants", full)
        return self
