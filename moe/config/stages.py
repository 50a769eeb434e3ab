"""The stages as data: who learns, by which route, from which losses, with what numbers.

A stage is a row here, not a script; `moe.training.trainer` runs every row with one loop.
"""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from router.registry import WeightingKind

TrainablePart = Literal["experts", "router", "heads"]


@dataclass(frozen=True)
class Stage:
    """One row of the table in method 5.

    Args:
        name: also the key of its numbers in the config.
        learned: whether the router decides, or one expert is fixed.
        learns: the parts that get gradients.
        outer: the losses that the outer level weighs.
        folder: what it writes below the run folder.
    """

    name: str
    learned: bool
    learns: tuple[TrainablePart, ...]
    outer: tuple[str, ...]
    folder: str


PRETRAIN = Stage("pretrain", False, ("experts",), (), "experts")
SHARED = Stage("shared", False, ("experts", "heads"), (), "experts/shared")
EXPERT = Stage("expert", False, ("experts", "heads"), (), "experts")
WARMUP = Stage("warmup", True, ("router", "heads"), ("domain", "balance"), "router-warmup")
JOINT = Stage("joint", True, ("experts", "router", "heads"), ("sentiment", "domain", "balance"), "moe-joint")
INSTRUCT = Stage("instruct", True, ("experts", "router"), ("sentiment", "domain", "balance"), "moe-instruct")
ADAPT = Stage("adapt", True, ("router", "heads"), ("domain", "balance"), "moe-adapted")
MERGED = "moe-init"
STAGES = {stage.name: stage for stage in (PRETRAIN, SHARED, EXPERT, WARMUP, JOINT, INSTRUCT, ADAPT)}


class StageSettings(BaseModel):
    """The numbers of one stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: float = Field(3.0, gt=0, description="passes over the training rows; not used where steps is given")
    steps: int | None = Field(None, ge=1, description="optimizer steps, instead of epochs")
    batch_size: int = Field(16, ge=1, description="texts that a process holds at once; more takes memory")
    accumulate: int = Field(
        1, ge=1, description="such micro-batches a step, with the same outcome as one of them all; saves memory"
    )
    lr: float = Field(1e-3, gt=0, description="AdamW rate of the experts")
    router_lr: float = Field(1e-3, gt=0, description="AdamW rate of the router")
    head_lr: float = Field(1e-3, gt=0, description="AdamW rate of the heads")
    warmup: float = Field(0.06, ge=0, description="steps of rising rate; below 1 a share of all steps")
    schedule: Literal["cosine", "linear", "constant_with_warmup"] = Field("cosine", description="rate after warm-up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's; more pulls weights to zero")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    evals: int = Field(4, ge=1, description="evaluations over the stage; the best one is kept")
    patience: int = Field(3, ge=1, description="evaluations without gain after which the stage stops")
    nonfinite: int = Field(
        3,
        ge=0,
        description="steps in a row without finite loss or gradient that are passed over; one more stops the stage",
    )
    keep: int = Field(2, ge=1, description="checkpoints kept while the stage runs")
    sampling_temperature: float = Field(
        2.0, ge=1, description="rows a domain ∝ size^(1/temperature): 1 as they are, more evens domains out"
    )


class StagesSettings(BaseModel):
    """The numbers of every stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pretrain: StageSettings = StageSettings(epochs=1.0, batch_size=8, lr=5e-4, evals=6, sampling_temperature=1.0)
    shared: StageSettings = StageSettings()
    expert: StageSettings = StageSettings()
    warmup: StageSettings = StageSettings(steps=500, evals=1)
    cache_trunk: bool = Field(
        False, description="keep the trunk's states of training rows on disk, so that no stage runs it again; much disk"
    )
    recompute: bool = Field(
        False, description="run layers again on the way back, not keep what they made: less memory, more time"
    )
    shard: bool = Field(
        False, description="share the backbone's weights out over processes (FSDP2), so that each holds a part of them"
    )
    joint: StageSettings = StageSettings(epochs=1.0, lr=3e-4, head_lr=3e-4, router_lr=3e-4)
    instruct: StageSettings = StageSettings(epochs=1.0, lr=3e-4, router_lr=3e-4)
    adapt: StageSettings = StageSettings(steps=300, evals=3, head_lr=3e-4)
    replay: int = Field(
        1000, ge=1, description="rows of each old domain that are learned again when an expert joins; more keeps more"
    )


class LossSettings(BaseModel):
    """How losses are formed and weighed (method 3 and 4)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    classes: Literal["cross_entropy", "dao", "effective"] = Field(
        "dao",
        description="how classes are weighted: not at all, by DAO's imbalance loss (eq. 12 to 14), by effective number",
    )
    effective_beta: float = Field(
        0.9999, ge=0, lt=1, description="β of effective numbers: 0 weighs classes alike, toward 1 by 1 / rows"
    )
    focal: float = Field(0.0, ge=0, description="γ of the focal factor (1 - p_true)^γ; more looks away from easy rows")
    smoothing: float = Field(0.0, ge=0, lt=1, description="share of a target spread over its task's labels")
    inner: WeightingKind = Field("dao", description="how classes and polarity are balanced")
    measured: Literal["state", "parameters"] = Field(
        "state",
        description="where inner DAO takes norms: the pooled state, or all experts' weights, the paper's; dearer",
    )
    outer: WeightingKind = Field("dao", description="how sentiment, domain and balance losses are balanced")
    constants: dict[Literal["classes", "polarity", "domain", "balance"], float] = Field(
        {"classes": 1.0, "polarity": 1.0, "domain": 1.5, "balance": 0.05},
        description="weights where a level is constant; those not named keep these",
    )
    balance: Literal["kl", "usage", "text"] = Field(
        "kl", description="KL to the domains' shares, 1 - H(mean gates), or FinTeamExperts' per-text entropy"
    )

    without: tuple[Literal["polarity", "domain", "balance"], ...] = Field(
        (), description="losses that are left out altogether, to see what each is worth"
    )

    @model_validator(mode="after")
    def _fill(self) -> "LossSettings":
        full = {"classes": 1.0, "polarity": 1.0, "domain": 1.5, "balance": 0.05} | self.constants
        object.__setattr__(self, "constants", full)
        return self
