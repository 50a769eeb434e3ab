"""What a sweep file may say: the run, the values, the seeds, the search.

Reading it and making points of it is `moe.sweep.grid`'s.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from moe.config.run import EXPONENT


def _different(values: Sequence[Any]) -> Sequence[Any]:
    if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
        raise ValueError("the same value stands there twice: drop one")
    return values


def parse_numbers(value: Any) -> Any:
    """The value with words such as 1e-4, which YAML 1.1 reads as text, as numbers."""
    if isinstance(value, dict):
        return {key: parse_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [parse_numbers(inner) for inner in value]
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


class SearchRange(BaseModel):
    """Where a searched number lies."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(description="smallest value, itself included")
    high: float = Field(description="largest value, itself included")
    log: bool = Field(False, description="look on a log scale: for rates and ranks")
    whole: bool = Field(False, alias="int", description="whole numbers only")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log scale starts above 0: raise low")
        if self.whole and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("int needs whole low and high")
        return self


class SearchSettings(BaseModel):
    """A search by Optuna's TPE in place of the grid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(20, ge=1, description="points to try; more finds better ones and takes longer")
    ranges: dict[str, SearchRange] = Field({}, description="numbers to look for, by dotted setting")


class SweepSettings(BaseModel):
    """A sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path | None = Field(None, description="the run's config, beside this file or as every command finds one")
    until: Literal["expert", "shared", "merge", "router"] = Field(
        "router", description="the last step of each point: the domains' experts, the shared one, merged, or all"
    )
    domains: tuple[str, ...] | None = Field(None, description="with until expert: whose experts; all by default")
    over: dict[str, Annotated[list[Any], Field(min_length=1), AfterValidator(_different)]] = Field(
        {}, description="values by dotted setting; keys joined by commas take lists of as many values"
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], AfterValidator(_different)] = Field(
        (), description="each point is trained from each of these; the run's own by default"
    )
    search: SearchSettings | None = Field(None, description="draw points by Optuna instead of the whole grid")

    @field_validator("over", mode="before")
    @classmethod
    def _as_numbers(cls, over: Any) -> Any:
        return parse_numbers(over)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ranges = [] if self.search is None else list(self.search.ranges)
        keys = [name for key in self.over for name in split_keys(key)] + ranges
        if not keys:
            raise ValueError("nothing to sweep: name settings under over, or ranges under search")
        if "seed" in keys:
            raise ValueError("seeds are not a setting to sweep: write seeds: [13, 42]")
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{', '.join(twice)} is swept twice: name it once")
        if self.domains is not None and self.until != "expert":
            raise ValueError(f"domains are chosen with until expert only, not {self.until}: drop them")
        for key, values in self.over.items():
            _check_lengths(key, values)
        return self


def _check_lengths(key: str, values: Sequence[Any]) -> None:
    count = len(split_keys(key))
    bad = next((one for one in values if count > 1 and not (isinstance(one, list) and len(one) == count)), None)
    if bad is not None:
        raise ValueError(f"{key} joins {count} settings, so each value is a list of {count}, found {bad!r}")


def split_keys(key: str) -> list[str]:
    """The settings of a key of `over`, which may join several by commas."""
    return [name.strip() for name in key.split(",")]
