"""Settings of the router network and its gates."""

import math
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from router.prior import PriorKind


class GateSettings(BaseModel):
    """Settings of the router network and its gates (FinTeamExperts eq. 1 to 4, FinSA-MoE's router).

    Examples:
        >>> from router import GateSettings
        >>> GateSettings(kind="team", queries=4).temperature
        1.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["soft", "hard", "team", "fixed"] = Field(
        "soft",
        description="soft weights over all experts, one expert per text, soft weights over roles with one expert per "
        "role, or constant weights",
    )
    unit: Literal["text", "token"] = Field(
        "text", description="what is routed: whole texts, or each token by its own state (language models only)"
    )
    hidden: int = Field(
        64,
        ge=0,
        le=65_536,
        description="width of the router's hidden layer; 0 is a single linear layer, as in the papers",
    )
    queries: int = Field(
        4,
        ge=0,
        le=1000,
        description="learned attention queries over the text's tokens, concatenated to their mean; none if tokens are "
        "routed",
    )
    dropout: float = Field(0.1, ge=0, lt=1, description="dropout of the router's hidden layer in training")
    top_k: int | None = Field(
        None, ge=1, le=10**6, description="number of experts with a weight per text, rescaled to sum 1; null is all"
    )
    prune: float = Field(
        0.02,
        ge=0,
        lt=0.5,
        description="weights below it are dropped in inference with routing `pruned`, and the others of the text are "
        "rescaled to sum 1; more is cheaper and changes the answers more, 0 keeps all",
    )
    temperature: float = Field(
        1.0, gt=0, le=10**6, description="initial temperature; higher makes the weights more equal"
    )
    min_temperature: float = Field(0.1, gt=0, le=10**6, description="lower bound of the learned temperature")
    init_std: float = Field(
        0.02, gt=0, le=100, description="standard deviation of the initial expert weights in the router's last layer"
    )
    fixed: tuple[Annotated[float, Field(ge=0, le=10**6)], ...] | None = Field(
        None, description="weights of kind `fixed`, one per expert, scaled to sum 1; null is equal weights"
    )
    init: PriorKind = Field(
        "random",
        description="start of the router when experts are merged: random weights, the domains' prototypes, the first "
        "singular vectors of the experts' updates, or gates trained with the experts; see `moe merge --router`",
    )
    unfamiliar: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="share of validation rows that init `centroid` takes as unfamiliar, far from every prototype; more "
        "marks more texts, 0 none",
    )
    expert_gate_steps: int = Field(
        0,
        ge=0,
        le=10**6,
        description="steps in which each expert's own gate is trained after it, for init `phatgoose`; 0 trains none",
    )

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if self.temperature < self.min_temperature:
            raise ValueError("temperature is below min_temperature: increase it")
        if self.unit == "token" and "queries" not in self.model_fields_set:
            object.__setattr__(self, "queries", 0)
        if self.unit == "token" and self.queries:
            raise ValueError(
                f"unit `token` cannot use {self.queries} queries, which attend over a text: set queries to 0"
            )
        if (self.kind == "fixed" or self.unit == "token") and "init" not in self.model_fields_set:
            object.__setattr__(self, "init", "random")
        if self.init != "random" and (self.kind == "fixed" or self.unit == "token"):
            other = "kind `fixed`" if self.kind == "fixed" else "unit `token`"
            raise ValueError(f"init `{self.init}` cannot be used with {other}: set init to `random`")
        if self.fixed is not None and self.kind != "fixed":
            raise ValueError(
                f"fixed weights cannot be used with kind `{self.kind}`: remove them or set kind to `fixed`"
            )
        if self.fixed is not None and not (min(self.fixed, default=0.0) >= 0 < sum(self.fixed) < math.inf):
            raise ValueError("fixed weights must not be negative, and not all 0")
        return self
