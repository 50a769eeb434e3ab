"""Settings of a split: the names of the sides, and how rows get to them.

Kept free of heavy imports, since the configuration imports it.
"""

from datetime import datetime
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from moe.data.splitting.times import Period

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


class WalkForward(BaseModel):
    """Folds in time: each is trained on a period and tested on the next one; then both move on by the test period."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    folds: int = Field(ge=1, le=1000, description="number of folds; the last one's test rows end with the file's")
    train: Period = Field(
        description="length of the time before the test rows from which training and validation rows are, such as 24m"
    )
    test: Period = Field(description="length of the time of the test rows, such as 3m")
    embargo: Period = Field("0d", description="as `split.embargo`")


class SplitSettings(BaseModel):
    """How rows are split into train, validation and test; stratified by label unless `by_text`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    own: bool = Field(True, description="use the file's split column if it has one; false splits at random instead")
    ratios: tuple[Annotated[float, Field(ge=0, le=10**12)], ...] = Field(
        (98, 1, 1),
        description="train, validation and test rows in any unit (98/1/1, 60/20/20); two numbers are train and "
        "test (9/1), with a tenth of train for validation; more test rows give narrower intervals and leave fewer "
        "for training",
    )
    seed: int = Field(13, ge=0, lt=2**31, description="seed of the split; the same seed gives the same rows")
    validation_as_test: bool = Field(
        False,
        description="if the file has validation rows but no test rows, test on them and validate on a tenth of train",
    )

    folds: int | None = Field(
        None,
        ge=2,
        le=10**6,
        description="cross-validation: number of stratified folds, one of which is the test; replaces `ratios`",
    )
    fold: int = Field(
        0, ge=0, lt=10**6, description="the fold to test on, from 0; a tenth of the other rows is for validation"
    )
    by_text: bool = Field(
        False,
        description="assign each text by a hash of the text and `seed`, not stratified by label: tasks with the same "
        "`ratios` and `seed` then have a text that they share on the same side",
    )

    by: Literal["time"] | None = Field(
        None, description="`time` splits by the times of `columns.time`: later rows are for validation and test"
    )
    validation_from: datetime | None = Field(
        None,
        description="with by time: first time of validation rows; null: the last tenth of the rows before `test_from`",
    )
    test_from: datetime | None = Field(None, description="with by time: first time of test rows")
    embargo: Period = Field(
        "0d",
        description="with by time: length of the gap before the first validation and the first test time, whose rows "
        "are left out: 12h, 1d, 2w or 1m",
    )
    walk_forward: WalkForward | None = Field(None, description="folds in time; `fold` is the one to use")

    @property
    def by_time(self) -> bool:
        """Whether the times of rows decide their sides."""
        return self.by is not None or self.walk_forward is not None

    @property
    def fold_count(self) -> int | None:
        """Number of folds, random or in time; None without folds."""
        return self.folds if self.walk_forward is None else self.walk_forward.folds

    @model_validator(mode="after")
    def _check_fold(self) -> Self:
        if self.fold_count is None and "fold" in self.model_fields_set and self.fold:
            raise ValueError("fold is set without folds; set folds to the number of folds")
        if self.fold_count is not None and self.fold >= self.fold_count:
            raise ValueError(f"expected a fold from 0 to {self.fold_count - 1}, not {self.fold}")
        if self.folds is not None and self.by_text:
            raise ValueError("by_text is for `ratios`, not for folds, which are stratified; remove one of them")
        return self

    @model_validator(mode="after")
    def _check_time(self) -> Self:
        changed = [name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default]
        given = [name for name in ("validation_from", "test_from", "embargo") if name in changed]
        if given and self.by is None:
            where = "write it inside walk_forward" if self.walk_forward is not None else f"remove {given[0]}"
            raise ValueError(f"{given[0]} is for `by: time`; add that, or {where}")
        if self.by is not None and self.walk_forward is not None:
            raise ValueError("by and walk_forward are two ways to split by time; remove one of them")
        if self.by is not None and self.test_from is None:
            raise ValueError('by time needs test_from, the first time of test rows, such as "2024-01-01"')
        if self.by_time and (self.folds is not None or self.by_text or self.validation_as_test):
            raise ValueError("a split by time cannot have folds, by_text or validation_as_test; remove them")
        if self.by_time and "ratios" in changed:
            raise ValueError("a split by time has no ratios; remove them")
        first, last = self.validation_from, self.test_from
        if first is not None and last is not None and first.replace(tzinfo=None) >= last.replace(tzinfo=None):
            raise ValueError(f"validation_from {first} is not before test_from {last}")
        return self

    @field_validator("ratios")
    @classmethod
    def _check_ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if len(ratios) not in (2, 3) or min(ratios) < 0 or ratios[0] <= 0:
            raise ValueError(
                "expected two (train, test) or three (train, validation, test) numbers, none negative, train above 0"
            )
        return ratios
