"""Names of the loss weightings and settings of DAO's comparators, separate so that reading a config is fast."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

WeightingKind = Literal["dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad"]


class ComparatorSettings(BaseModel):
    """Hyperparameters of the loss weightings that DAO is compared with; the defaults are those of their papers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(0.025, gt=0, le=10, description="Adam learning rate of uncertainty weighting and GradNorm")
    dwa_temperature: float = Field(
        2.0, gt=0, le=10**6, description="temperature T of DWA; higher makes the weights more equal"
    )
    dwa_every: int = Field(
        100, ge=1, le=10**9, description="steps over which DWA averages a loss, in its paper an epoch"
    )
    gradnorm_alpha: float = Field(
        1.5,
        ge=0,
        le=100,
        description="α of GradNorm; higher favors slowly falling losses more, 0 makes gradient norms equal",
    )
