"""Settings of distillation: teachers, unlabelled texts, and how soft labels train the student.

Kept free of heavy imports, since the configuration imports it.
"""

from collections.abc import Collection
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from moe.data.distilled.teacher_settings import TeacherSettings
from moe.data.schema import Settings

Selection = Literal["random", "confident", "uncertain", "diverse"]


class DistillSettings(Settings):
    """Teachers that label texts with probabilities, and how a student learns from them (Hinton et al., 2015)."""

    teachers: tuple[TeacherSettings, ...] = Field(
        min_length=1,
        description="large models whose answers the student learns; the probabilities of several are averaged",
    )
    text: dict[str, tuple[str, ...]] = Field(
        {},
        description="unlabelled texts by domain: files or folders that `moe infer` reads, relative to the data "
        "folder; the teachers label them for every task of the domain, and for a task with a target those that have an "
        "entity in the column `target`",
    )
    labelled: bool = Field(
        True,
        description="also learn the teachers' answers for the labelled training rows, beside their labels; rows with a "
        "target, too, if a teacher answers about entities",
    )
    most: int | None = Field(
        None, ge=1, le=10**9, description="most unlabelled texts of each domain; null is no limit, and takes longer"
    )
    select: Selection = Field(
        "random",
        description="which texts `most` keeps: a random sample; those about which the teachers are most or least "
        "confident; or a spread over the teachers' answers. All but random label every text first",
    )
    temperature: float = Field(
        2.0,
        ge=0.1,
        le=100,
        description="temperature of both distributions in the loss; higher teaches more of the less probable labels",
    )
    weight: float = Field(
        1.0, ge=0, le=10**6, description="weight of the distillation loss beside the loss of the labels, which has 1"
    )
    domain_weights: dict[str, Annotated[float, Field(ge=0, le=10**6)]] = Field(
        {}, description="factor of the loss of a domain's rows; 1 for domains that are not listed"
    )
    weighting: Literal["constant", "inner"] = Field(
        "constant",
        description="`constant` uses `weight`; `inner` balances it with the class and polarity losses by "
        "`losses.inner`, such as DAO, times `weight`",
    )
    calibrate: bool = Field(
        True, description="fit each teacher's temperature on the validation rows of each task before averaging"
    )
    cache: str | None = Field(
        None,
        description="folder of the teachers' answers, which runs can share; null is `distilled/answers` of the run",
    )
    seed: int = Field(13, ge=0, lt=2**31, description="seed of the sample of texts under `most`")

    @model_validator(mode="after")
    def _check_work(self) -> Self:
        if not self.text and not self.labelled:
            raise ValueError("there is nothing to learn: give texts under text, or set labelled to true")
        if self.most is None and self.select != "random":
            raise ValueError(f"select is {self.select}, but without most every text is used: set most")
        return self

    def of_labels(self, domain: str) -> dict[str, object]:
        """The settings that the soft labels of a domain depend on, as JSON values."""
        names = {"teachers", "labelled", "most", "select", "calibrate", "seed"}
        return self.model_dump(mode="json", include=names) | {"text": list(self.text.get(domain, ()))}

    def domain_weight(self, domain: str) -> float:
        """Factor of the loss of a domain's rows."""
        return self.domain_weights.get(domain, 1.0)


def distill_conflicts(settings: DistillSettings, domains: Collection[str]) -> list[str]:
    """Contradictions between the settings of distillation and the names of the domains, one sentence each."""
    return [
        f"distill.{key}.{name}: no domain has this name; the domains are {', '.join(domains)}"
        for key, names in (("text", settings.text), ("domain_weights", settings.domain_weights))
        for name in names
        if name not in domains
    ]
