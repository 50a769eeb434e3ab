"""Names of the loss weightings and settings of DAO and its comparators, separate so that reading a config is fast."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

WeightingKind = Literal["dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad"]


class DAOSettings(BaseModel):
    """Bounds and learning rates of DAO (method 4). The paper does not specify width, α and β.

    Examples:
        >>> from router import DAO, DAOSettings
        >>> DAO(("classes", "polarity"), DAOSettings(objective="validation")).every
        10
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    ema: float = Field(
        0.9, ge=0, lt=1, description="decay of the average of gradient norms; higher is smoother, 0 is the paper's"
    )
    norm_floor: float = Field(
        0.1, ge=0, le=1, description="minimum norm as a fraction of the largest; keeps λ away from 1"
    )
    weight_floor: float | None = Field(
        None, ge=0, le=1, description="minimum weight w of a loss; null is 0.5 / n, 0 is the paper's"
    )
    hidden: int = Field(16, ge=1, le=65_536, description="width of the weight net (eq. 19)")
    lr: float = Field(1e-3, gt=0, le=10, description="Adam learning rate of the weight net, and of learned α and β")
    every: int | None = Field(
        None, ge=1, le=10**9, description="steps between measurements; null is 1, or 10 for objective `validation`"
    )
    objective: Literal["sum", "validation"] = Field(
        "sum",
        description="what the weight net minimizes: the weighted sum (the paper's), or a held-out loss after a virtual "
        "step",
    )
    virtual_lr: float = Field(1e-3, gt=0, le=10, description="learning rate of the virtual step, as for Adam")
    imbalance: Literal["fixed", "learn", "paper"] = Field(
        "fixed",
        description="how α and β change: not at all, by their true gradients, or by eq. 16 and 17 as printed; all "
        "within bounds",
    )
    alpha: float = Field(0.0, ge=0, le=100, description="α of eq. 14; its term has no gradient for the model")
    beta: float = Field(0.5, ge=0, le=1, description="β of eq. 12; 0 weights all rows equally, 1 all classes equally")
    relative_bounds: tuple[Annotated[float, Field(ge=0, le=10**6)], Annotated[float, Field(ge=0, le=10**6)]] = Field(
        (0.02, 2.0), description="bounds of the routing losses' weights relative to the sentiment loss's"
    )

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        low, high = self.relative_bounds
        if low > high:
            raise ValueError("relative_bounds must be increasing")
        return self


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
