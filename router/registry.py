"""The names of the balances of losses, and the comparators' settings; light, for whoever reads a config.

The balances themselves are `router.dao`'s and `router.mtl_baselines`'.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

WeightingKind = Literal["dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad"]


class ComparatorSettings(BaseModel):
    """Rates and shapes of the comparators; the defaults are their papers'."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr: float = Field(0.025, gt=0, description="Adam rate of what uncertainty weighting and GradNorm learn")
    dwa_temperature: float = Field(2.0, gt=0, description="DWA's T; more evens weights out")
    dwa_every: int = Field(100, ge=1, description="steps over which DWA averages a loss; its paper's epoch")
    gradnorm_alpha: float = Field(1.5, ge=0, description="GradNorm's α: how hard a slow loss is pushed; 0 evens norms")
