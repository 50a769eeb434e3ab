"""What a row is, and the settings that say how a file becomes rows: columns, labels, score cuts, splits.

Reading, checking and splitting by these settings is left to the modules beside it; nothing heavy is imported here.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from moe.data.prompt_templates import TEMPLATES

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Origin = Literal["synonym", "paraphrase", "synthetic"]
ORIGINAL = "original"
"""The origin of every row that a file holds; rows made of others name how they were made."""
DAO5_CUTS = (-0.5, -0.049, 0.049, 0.5)
"""The borders of five sentiment classes (DAO paper, eq. 4)."""


class Settings(BaseModel):
    """A frozen piece of the configuration that refuses unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Settings):
    """What the file calls its columns; null ignores one. A column that is renamed here must be there."""

    id: str | None = Field("id", description="names a row; without it a row is called `line-N`")
    text: str = Field("text", description="what the model reads; the one column every file needs")
    label: str | None = Field("label", description="the class, in the file's own words")
    score: str | None = Field("score", description="polarity from -1 (bad for the holder) to 1 (good)")
    domain: str | None = Field("domain", description="read by `only` alone: the config's domain overrides it")
    lang: str | None = Field("lang", description="language code, for reports")
    split: str | None = Field("split", description="train, validation or test, where the file has its own split")

    def mapping(self) -> dict[str, str]:
        """The file's column by ours, ignored ones left out."""
        return {ours: theirs for ours, theirs in self.model_dump().items() if theirs is not None}

    def required(self) -> set[str]:
        """The file's columns that must be there: the text, and every one renamed."""
        renamed = {
            theirs for ours, theirs in self.mapping().items() if ours in self.model_fields_set and theirs != ours
        }
        return renamed | {self.text}


class SplitSettings(Settings):
    """How rows are parted into train, validation and test; always stratified by label."""

    own: bool = Field(True, description="use the file's split column where it has one; false draws anew")
    ratios: tuple[float, ...] = Field(
        (98, 1, 1),
        description="parts of train, validation, test, in any unit (98/1/1, 60/20/20); two are train and test (9/1), "
        "with a tenth of train as validation; a larger last part tests more surely and trains on less",
    )
    seed: int = Field(13, ge=0, lt=2**31, description="which rows are drawn; the same seed draws the same rows")
    validation_as_test: bool = Field(
        False, description="a file whose only held-out part is validation tests on it and validates on a tenth of train"
    )

    folds: int | None = Field(
        None, ge=2, description="cross-validation: this many stratified folds, one of them the test; no ratios then"
    )
    fold: int = Field(0, ge=0, description="which fold tests, from 0; a tenth of the others validates")

    @model_validator(mode="after")
    def _fold_is_there(self) -> Self:
        if self.folds is None and "fold" in self.model_fields_set and self.fold:
            raise ValueError("fold needs folds: say how many there are")
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold is {self.fold}, of {self.folds} folds the last is {self.folds - 1}")
        return self

    @field_validator("ratios")
    @classmethod
    def _two_or_three_parts(cls, ratios: tuple[float, ...]) -> tuple[float, ...]:
        if len(ratios) not in (2, 3) or min(ratios) < 0 or ratios[0] <= 0:
            raise ValueError("two (train, test) or three (train, validation, test) parts, none negative, train above 0")
        return ratios


class TaskSettings(Settings):
    """One labelled file: where it is, what its labels are, how it is split."""

    file: str | None = Field(None, description="path of the file or `datasets` folder, from the data folder")
    labels: tuple[str, ...] = Field((), description="the label names in the order of the logits; none is plain text")
    label_map: dict[str, str] = Field(
        {}, description="the file's labels to ours, any language; a label of ours needs no entry; case matters"
    )
    columns: Columns = Columns()
    score_cuts: Literal["dao5"] | tuple[float, ...] | None = Field(
        None,
        description="borders, ascending, that turn the score of a row without label into a class (K - 1 for K labels); "
        "`dao5` is the DAO paper's eq. 4; a score on a border belongs to the side nearer 0",
    )
    split: SplitSettings = SplitSettings()
    max_train_rows: int | None = Field(None, ge=1, description="stratified cap on training rows; fewer is faster")
    max_validation_rows: int | None = Field(
        None, ge=1, description="stratified cap on validation rows, which every evaluation in training reads"
    )
    ask: str | None = Field(
        None,
        description="how a row becomes a question and its answer, for a language model: the name of a template, or one "
        "of your own with {text}, and {choices} where it has labels",
    )
    only: dict[str, tuple[str, ...]] | None = Field(
        None, description="keep rows whose column has one of these values, others are passed over: {domain: [news]}"
    )

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """The borders between classes, ascending (K - 1,)."""
        return DAO5_CUTS if self.score_cuts == "dao5" else self.score_cuts

    @field_validator("ask")
    @classmethod
    def _asks_of_a_text(cls, ask: str | None) -> str | None:
        if ask is not None and ask not in TEMPLATES and "{text}" not in ask:
            raise ValueError(f"ask: one of {', '.join(TEMPLATES)}, or words around {{text}}, not {ask!r}")
        return ask

    @model_validator(mode="after")
    def _labels_agree(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels: each once, not {', '.join(self.labels)}")
        if strange := sorted(set(self.label_map.values()) - set(self.labels)):
            raise ValueError(f"label_map: leads to {', '.join(strange)}, not among labels ({', '.join(self.labels)})")
        return self

    @model_validator(mode="after")
    def _cuts_fit(self) -> Self:
        if self.cuts is None:
            return self
        if len(self.cuts) != len(self.labels) - 1:
            raise ValueError(
                f"score_cuts: {len(self.labels)} labels need {len(self.labels) - 1} cuts, not {len(self.cuts)}"
            )
        if list(self.cuts) != sorted(set(self.cuts)) or not all(-1 < cut < 1 for cut in self.cuts):
            raise ValueError(f"score_cuts: ascending, between -1 and 1, not {self.cuts}")
        return self


class AugmentSettings(Settings):
    """How `moe augment` has a language model write training rows anew, or new questions like them.

    Labelled rows are varied as FinSA-MoE's recipe says; of questions every variant is a new text with the same answer.
    """

    variants: int = Field(3, ge=1, description="new texts asked for a training row; more costs more and repeats more")
    synonym_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of a labelled row's that only replace a few words by synonyms; the others are paraphrases",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        description="most new rows for each original row; lower asks for and trains on fewer; null: no bound",
    )
    seed: int = Field(
        13, ge=0, lt=2**31, description="which rows are drawn under `max_share`, and which of them get synonyms"
    )
    temperature: float = Field(0.8, ge=0, le=2, description="of the language model; higher varies more and errs more")
    max_tokens: int = Field(
        2048, ge=1, description="tokens of one answer, its thoughts included; an answer that is cut is dropped"
    )
    concurrency: int = Field(
        4, ge=1, le=64, description="requests under way at once; more is faster, if the server can"
    )
    retries: int = Field(
        5, ge=0, description="times a request is sent again, with growing pauses, after 429, 5xx or a timeout"
    )
    timeout: float = Field(120, gt=0, description="seconds to wait for one answer; a thinking model needs more")


class DataSettings(Settings):
    """What holds for every file of a run."""

    folder: str | None = Field(None, description="where relative files are looked for; none is the working folder")
    max_rejected: float = Field(0.05, ge=0, le=1, description="share of bad rows above which the run stops")
    near_duplicates: float | None = Field(
        0.85, gt=0, le=1, description="Jaccard similarity from which two texts are one; lower removes more; null: none"
    )
    seed: int = Field(
        13, ge=0, lt=2**31, description="of the hashes that find near duplicates, and of the cap on training rows"
    )
    augmented: bool = Field(
        False, description="train on the rows of `moe data augment` too; validation and test rows stay as they are"
    )
    augment: AugmentSettings = AugmentSettings()

    def path(self, file: str) -> Path:
        """Where a task's file is: below `folder` unless it is absolute."""
        return Path(self.folder or ".").expanduser() / Path(file).expanduser()


@dataclass(frozen=True, slots=True)
class Record:
    """One row as the file has it.

    Args:
        line: 1-based; in csv the line of the file where the row starts, in jsonl and txt its line, else its number.
        values: by our column names, other columns by their own. Where there is an error, what could still be read,
            broken bytes shown as U+FFFD.
        error: why it cannot be read, else None.
    """

    line: int
    values: dict[str, object]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One row that can be used: `label` indexes the task's labels, `score` is in [-1, 1], None where there is none.

    `prompt`, `answer` and `choices` are of rows that ask (`moe.data.prompt_templates`), None and empty in others.
    """

    id: str
    text: str
    label: int | None
    score: float | None
    lang: str | None
    split: Split | None
    line: int
    prompt: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that cannot: where it is, the kind of fault, the value at fault, the beginning of its text."""

    line: int
    id: str
    reason: str
    found: str
    text: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row whose id and content came before; dropped and counted, for nothing is lost by it."""

    line: int
    id: str
