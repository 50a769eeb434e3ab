"""Settings of a split: the names of the sides, and how rows get to them.

Kept free of heavy imports, since the configuration imports it.
"""

from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


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

    @model_validator(mode="after")
    def _check_fold(self) -> Self:
        if self.folds is None and "fold" in self.model_fields_set and self.fold:
            raise ValueError("fold is set without folds; set folds to the number of folds")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"expected a fold from 0 to {self.folds - 1}, not {self.fold}")
        if self.folds is not None and self.by_text:
            raise ValueError("by_text is for `ratios`, not for folds, which are stratified; remove one of them")
        return self

    @field_validator("ratios")
    @classmethod
    def _check_ratios(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if len(ratios) not in (2, 3) or min(ratios) < 0 or ratios[0] <= 0:
            raise ValueError(
                "expected two (train, test) or three (train, validation, test) numbers, none negative, train above 0"
            )
        return ratios
