"""Settings of a sweep file: the run, the values, the seeds, the search."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


def _check_distinct(values: Sequence[Any]) -> Sequence[Any]:
    if len({json.dumps(value, sort_keys=True, default=str) for value in values}) < len(values):
        raise ValueError("the same value is listed twice: remove one")
    return values


class SearchRange(BaseModel):
    """Range of a searched number."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float = Field(ge=-1e12, le=1e12, description="smallest value, inclusive")
    high: float = Field(ge=-1e12, le=1e12, description="largest value, inclusive")
    log: bool = Field(False, description="search on a log scale, for learning rates and ranks")
    integer: bool = Field(
        False,
        alias="int",
        serialization_alias="whole",  # this key is part of the hash that names a study
        description="integers only",
    )

    @model_validator(mode="after")
    def _check_range(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError("a log scale starts above 0: raise low")
        if self.integer and not (self.low.is_integer() and self.high.is_integer()):
            raise ValueError("int needs integers as low and high")
        return self


class SearchSettings(BaseModel):
    """A search by Optuna's TPE in place of the grid."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(20, ge=1, le=10**6, description="number of trials; more find better settings and take longer")
    ranges: dict[str, SearchRange] = Field({}, description="ranges of numbers, by dotted setting")


class SweepSettings(BaseModel):
    """Content of a sweep file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: Path | None = Field(None, description="the run's config, relative to this file or found as for every command")
    until: Literal["expert", "shared", "merge", "router"] = Field(
        "router", description="last step of each trial: the domains' experts, the shared expert, the merge, or all"
    )
    domains: tuple[str, ...] | None = Field(None, description="with until expert: domains to train; all by default")
    over: dict[str, Annotated[list[Any], Field(min_length=1), AfterValidator(_check_distinct)]] = Field(
        {}, description="values by dotted setting; keys joined by commas take lists of as many values"
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**31)], ...], AfterValidator(_check_distinct)] = Field(
        (), description="seeds from which each trial is trained; the run's own by default"
    )
    folds: bool = Field(
        False, description="train every fold of the domains that have folds, in time or at random; for a grid"
    )
    search: SearchSettings | None = Field(None, description="sample trials with Optuna instead of the full grid")

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        ranges = [] if self.search is None else list(self.search.ranges)
        keys = [name for key in self.over for name in split_keys(key)] + ranges
        if not keys and not self.folds:
            raise ValueError("nothing to sweep: add settings under over, ranges under search, or folds")
        if self.folds and self.search is not None:
            raise ValueError("folds are for a grid, not for a search; remove one of them")
        if "seed" in keys:
            raise ValueError("seeds are not a setting to sweep: write seeds: [13, 42]")
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{', '.join(repeated)} is swept twice: remove one")
        if self.domains is not None and self.until != "expert":
            raise ValueError(f"domains are only used with until expert, not {self.until}: remove them")
        for key, values in self.over.items():
            _check_lengths(key, values)
        return self


def _check_lengths(key: str, values: Sequence[Any]) -> None:
    count = len(split_keys(key))
    for value in values:
        if count > 1 and not (isinstance(value, list) and len(value) == count):
            raise ValueError(f"{key} joins {count} settings, so each value is a list of {count}, found {value!r}")


def split_keys(key: str) -> list[str]:
    """Split a key of `over`, which may join several settings by commas."""
    return [name.strip() for name in key.split(",")]
