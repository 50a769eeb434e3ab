"""Data settings (columns, labels, score cuts, splits, augmentation), and the types of records and rows.

Kept free of heavy imports, since the configuration imports it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from experts.domain import CLASSES, Kind
from moe.data.formats.text_format import TextFormat
from moe.data.prompt_templates import QUESTION_COLUMNS, TEMPLATES
from moe.data.splitting.settings import Split, SplitSettings
from moe.data.splitting.times import TimeFormat
from moe.kinds.registry import task_kind

Origin = Literal["synonym", "paraphrase", "synthetic"]
ORIGINAL = "original"
"""Origin of every row that was read from a file; augmented rows name how they were made."""
DAO5_CUTS = (-0.5, -0.049, 0.049, 0.5)
"""Thresholds between five sentiment classes (DAO paper, eq. 4)."""
API_KEY_ENV = "OPENAI_API_KEY"
"""Default name of the environment variable that holds the API key of an endpoint."""


class Settings(BaseModel):
    """A frozen part of the configuration that rejects unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Columns(Settings):
    """Names of the file's columns; null ignores a column. A renamed column is required."""

    id: str | None = Field("id", description="unique name of a row; without this column rows are named `line-N`")
    text: str = Field("text", description="text that the model reads; the only column that every file needs")
    label: str | None = Field("label", description="class label, as named in the file")
    score: str | None = Field("score", description="polarity from -1 (bad for the holder) to 1 (good)")
    domain: str | None = Field("domain", description="used by `only` alone; the config sets the domain of a row")
    lang: str | None = Field("lang", description="language code, for reports")
    split: str | None = Field("split", description="train, validation or test, if the file has its own split")
    target: str | None = Field(
        None,
        description="entity that the label is about; a task with this column predicts the sentiment for one "
        "entity of a text at a time, and a text with several entities is several rows",
    )
    time: str | None = Field(
        None, description="when the text was published; a row without a time is rejected; for splits by time"
    )

    def mapping(self) -> dict[str, str]:
        """Names of the file's columns by our field names, without ignored columns."""
        return {field: column for field, column in self.model_dump().items() if column is not None}

    def restricted_to(self, *fields: str) -> Self:
        """Return a copy that ignores all other fields."""
        return self.model_copy(update={field: None for field in type(self).model_fields if field not in fields})

    def required(self) -> set[str]:
        """Names of the columns that the file must have: the text column, and every renamed column."""
        mapping = self.mapping()
        renamed = {column for field, column in mapping.items() if field in self.model_fields_set and column != field}
        return renamed | {self.text} | {name for name in (self.target, self.time) if name is not None}


class TaskSettings(Settings):
    """Settings of one labelled file: its location, its labels, its split."""

    file: str | None = Field(None, description="path of the file or `datasets` folder, relative to the data folder")
    labels: tuple[str, ...] = Field((), description="label names in the order of the logits; empty for plain text")
    kind: Kind = Field(
        CLASSES,
        description="`classes`: one label per row; `multi_label`: any number of labels, in one cell with `;` or `|` "
        "between them or as a list, and an empty cell is a row without any of them; `ordinal`: one label per row, and "
        "`labels` are ordered from low to high; `score`: a score per row and no labels",
    )
    label_map: dict[str, str] = Field(
        {},
        description="the file's labels, in any language → `labels`; identical names need no entry; case-sensitive",
    )
    columns: Columns = Columns()
    format: TextFormat = TextFormat()
    time: TimeFormat = TimeFormat()
    score_cuts: Literal["dao5"] | tuple[Annotated[float, Field(gt=-1, lt=1)], ...] | None = Field(
        None,
        description="ascending thresholds that turn the score of a row without a label into a class (K - 1 for K "
        "labels); `dao5` is the DAO paper's eq. 4; a score on a threshold belongs to the class nearer 0",
    )
    split: SplitSettings = SplitSettings()
    max_train_rows: int | None = Field(
        None, ge=1, le=10**9, description="most training rows, a stratified sample; fewer is faster"
    )
    max_validation_rows: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="most validation rows, a stratified sample; every evaluation during training reads all of them",
    )
    ask: str | None = Field(
        None,
        description="prompt template for language models: name of a built-in template, or a custom text with {text}, "
        "{choices} if the task has labels, and {target} if it has a target",
    )
    only: dict[str, tuple[str, ...]] | None = Field(
        None, description="use only rows whose column has one of these values: {domain: [news]}"
    )

    @property
    def other_columns(self) -> frozenset[str]:
        """Columns of the file that are read besides those of `columns`: for `only`, and for prompt templates."""
        return frozenset(self.only or ()) | (QUESTION_COLUMNS if self.ask is not None else frozenset())

    @property
    def answer_fields(self) -> tuple[str, ...]:
        """Fields of which a row has one at least; empty for plain text, and for questions to a language model."""
        kind = task_kind(self.kind)
        return kind.answer_fields if self.ask is None and (self.labels or not kind.has_labels) else ()

    @property
    def has_target(self) -> bool:
        """Whether the task's rows name a target, an entity of the text that the label is about."""
        return self.columns.target is not None

    @property
    def cuts(self) -> tuple[float, ...] | None:
        """Thresholds between classes, ascending (K − 1,)."""
        return DAO5_CUTS if self.score_cuts == "dao5" else self.score_cuts

    @field_validator("ask")
    @classmethod
    def _check_ask(cls, ask: str | None) -> str | None:
        if ask is not None and ask not in TEMPLATES and "{text}" not in ask:
            raise ValueError(f"expected one of {', '.join(TEMPLATES)}, or a template that contains {{text}}")
        return ask

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == CLASSES:
            return self
        if problem := task_kind(self.kind).check_labels(self.labels):
            raise ValueError(f"kind: {problem}")
        if self.ask is not None:
            raise ValueError(f"kind: a question to a language model (`ask`) has the kind classes, not {self.kind}")
        if self.score_cuts is not None and not task_kind(self.kind).has_class_weights:
            raise ValueError(f"kind: score_cuts makes classes of scores, not labels of the kind {self.kind}: remove it")
        if not task_kind(self.kind).has_labels:
            self._check_score_alone()
        return self

    def _check_score_alone(self) -> None:
        """Check the settings of a task without labels."""
        if self.label_map:
            raise ValueError(f"kind: label_map maps labels, and a task of the kind {self.kind} has none: remove it")
        if self.columns.label not in (Columns().label, None):
            raise ValueError(
                f"kind: columns.label is {self.columns.label}, but a task of the kind {self.kind} reads no labels: "
                "remove it, or name the column of the scores with columns.score"
            )
        if self.columns.score is None:
            raise ValueError(f"kind: a task of the kind {self.kind} needs columns.score, the column of its scores")

    @model_validator(mode="after")
    def _check_labels(self) -> Self:
        if len(set(self.labels)) != len(self.labels):
            raise ValueError(f"labels: expected each label once, not {', '.join(self.labels)}")
        if unknown := sorted(set(self.label_map.values()) - set(self.labels)):
            raise ValueError(f"label_map: {', '.join(unknown)} not among labels ({', '.join(self.labels)})")
        return self

    @model_validator(mode="after")
    def _check_time(self) -> Self:
        if self.split.by_time and self.columns.time is None:
            raise ValueError("split: a split by time needs columns.time, the column that holds the time of a row")
        if self.columns.time is None and self.time != TimeFormat():
            raise ValueError("time: set columns.time to the column that holds the time of a row, or remove it")
        return self

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.ask is None:
            return self
        frame = TEMPLATES[self.ask].frame if self.ask in TEMPLATES else self.ask
        if ("{target}" in frame) is not self.has_target:
            raise ValueError(
                "ask: the template must contain {target}, since columns.target is set"
                if self.has_target
                else "ask: the template contains {target}; set columns.target to the column that holds the target"
            )
        return self

    @model_validator(mode="after")
    def _check_cuts(self) -> Self:
        if self.cuts is None:
            return self
        if len(self.cuts) != len(self.labels) - 1:
            raise ValueError(
                f"score_cuts: {len(self.labels)} labels need {len(self.labels) - 1} cuts, not {len(self.cuts)}"
            )
        if list(self.cuts) != sorted(set(self.cuts)) or not all(-1 < cut < 1 for cut in self.cuts):
            raise ValueError(f"score_cuts: expected ascending numbers between -1 and 1, not {self.cuts}")
        return self


class AugmentSettings(Settings):
    """How `moe data augment` makes a language model rewrite training rows, or write new questions like them.

    Labelled rows are rewritten as in the recipe of FinSA-MoE; a variant of a question is a new text with the same
    answer.
    """

    variants: int = Field(
        3, ge=1, le=1000, description="new texts requested for each training row; more costs more and repeats more"
    )
    synonym_share: float = Field(
        0.2,
        ge=0,
        le=1,
        description="share of variants that only replace a few words by synonyms; the others are paraphrases",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="most new rows per original row; lower requests and trains on fewer; null is no limit",
    )
    seed: int = Field(
        13, ge=0, lt=2**31, description="seed that selects rows under `max_share`, and rows that get synonyms"
    )
    temperature: float = Field(
        0.8, ge=0, le=2, description="sampling temperature of the language model; higher varies more and errs more"
    )
    max_tokens: int = Field(
        2048,
        ge=1,
        le=10**6,
        description="most tokens of one response, including its thinking; a truncated response is dropped",
    )
    concurrency: int = Field(
        4, ge=1, le=64, description="requests in flight at once; more is faster if the server can handle them"
    )
    retries: int = Field(
        5, ge=0, le=100, description="retries of a request, with growing pauses, after 429, 5xx or a timeout"
    )
    timeout: float = Field(
        120, gt=0, le=86_400, description="seconds to wait for one response; a reasoning model needs more"
    )


class DataSettings(Settings):
    """Settings that apply to every file of a run."""

    folder: str | None = Field(None, description="folder of relative paths; null is the working folder")
    max_rejected: float = Field(0.05, ge=0, le=1, description="share of rejected rows above which the run stops")
    near_duplicates: float | None = Field(
        0.85,
        gt=0,
        le=1,
        description="Jaccard similarity from which texts count as duplicates; lower removes more; null removes none",
    )
    seed: int = Field(
        13, ge=0, lt=2**31, description="seed of the near-duplicate hashes, and of the samples under `max_train_rows`"
    )
    across_tasks: bool | None = Field(
        None,
        description="also remove training rows near a validation or test text of another task, and validation rows "
        "near a test text of another task; null: if a task of the run has a target, since such tasks share texts",
    )
    augmented: bool = Field(
        False, description="also train on the rows of `moe data augment`; validation and test rows do not change"
    )
    augment: AugmentSettings = AugmentSettings()

    def path(self, file: str) -> Path:
        """Path of a task's file: relative to `folder` unless it is absolute."""
        return Path(self.folder or ".").expanduser() / Path(file).expanduser()


@dataclass(frozen=True, slots=True)
class Record:
    """One row of a file, not validated.

    Args:
        line: from 1; the line of the file at which the row starts (csv, jsonl, txt), else the number of the row.
        values: values by our field names, and of other columns by their own names. If there is an error, whatever could
            be read, with undecodable bytes as U+FFFD.
        error: why the row cannot be read, or None.
        part: value of the file's column `split`, or name of its part, if `columns` ignores it; else None.
    """

    line: int
    values: dict[str, object]
    error: str | None = None
    part: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One valid row.

    Args:
        id: unique name.
        text: what the model reads.
        label: code of its answer, see `moe.kinds.base.TaskKind`: of one label its index; None without an answer.
        score: polarity in [-1, 1], or None.
        lang: language code, or None.
        split: the file's own split of the row, or None.
        line: see `Record`.
        target: the entity that the label is about, or None.
        prompt: the question, if the task has a prompt template (`moe.data.prompt_templates`).
        answer: its answer.
        choices: the answers to choose from, if there are any.
        time: when the text was published, in microseconds since 1970 in UTC; None if the task has no times.
    """

    id: str
    text: str
    label: int | None
    score: float | None
    lang: str | None
    split: Split | None
    line: int
    target: str | None = None
    prompt: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    time: int | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """One invalid row: its line and id, the reason, the invalid value (`found`), and the beginning of its text."""

    line: int
    id: str
    reason: str
    found: str
    text: str


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row with the id and content of an earlier one; dropped and counted."""

    line: int
    id: str
