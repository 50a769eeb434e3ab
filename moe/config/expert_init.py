"""Settings of an expert that starts from the experts of a trained mixture, which it is to join."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class ExpertInitSettings(BaseModel):
    """From which experts of a mixture the experts of other domains start: the average of the nearest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    mixture: str = Field(min_length=1, description="folder of the mixture, or of a run, whose best mixture is used")
    nearest: int = Field(2, ge=1, le=1000, description="number of experts whose updates are averaged")
    by: Literal["gates", "prototypes"] = Field(
        "gates",
        description="which experts are nearest: those with the largest mean gates on the new domain's training rows, "
        "or those of the domains whose mean state without experts is most similar, which needs rows of these domains",
    )
    rows: int = Field(
        256, ge=1, le=10**6, description="most training rows of a domain that are read for it, a random sample"
    )
