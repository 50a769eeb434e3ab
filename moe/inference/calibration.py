"""A model's `calibration.json`: for each task its temperature, risk–coverage curve and conformal label sets.

`moe.evaluation.calibration.calibrate` fits it. Every prediction reads it, so this module imports nothing heavy.
"""

from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from experts.atomic_io import MANIFEST, sha256_of
from experts.cards import read_record
from experts.errors import Fault
from experts.reused import write_sealed_json
from moe.inference.abstention import RiskCoveragePoint, require_point
from moe.model.mode import Routing

CALIBRATION = "calibration.json"
FORMAT, OLDEST_FORMAT = 3, 1  # in format 1, thresholds had no bounds; formats before 3 have no hash of themselves
REMEDY = "run moe calibrate, or delete the file"
TOLERANCE = 1e-8
"""Absolute error of a probability that rounding may cause; a label at the bound of a set is inside."""


class LabelSets(BaseModel):
    """Conformal sets of one task: the labels whose calibrated probability p has 1 − p of at most a quantile.

    Split conformal prediction with the score 1 − p of the true label, LAC (Sadinle, Lei and Wasserman, 2019). LAC has
    the smallest sets on average, and unlike APS and RAPS it draws no random numbers, so that a text always has the same
    set. On its own it gives some texts an empty set; here the most probable label is always inside, which can only
    raise the coverage.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: float = Field(
        gt=0, lt=1, description="least share of texts like the validation rows whose set holds the true label"
    )
    rows: int = Field(ge=1, description="number of validation rows that the quantile is of")
    quantile: float = Field(
        ge=0, le=1, description="largest 1 − p of a label in a set; a larger quantile gives larger sets"
    )

    @property
    def bound(self) -> float:
        """Smallest probability of a label in a set, except for the most probable label."""
        return 1 - self.quantile - TOLERANCE

    def select(self, labels: Sequence[str], probabilities: Sequence[float]) -> tuple[str, ...]:
        """Return the set of a text with these calibrated probabilities (K,), the most probable label first."""
        order = sorted(range(len(labels)), key=lambda i: -probabilities[i])
        return tuple(labels[i] for i in order if i == order[0] or probabilities[i] >= self.bound)


def rows_for_sets(level: float) -> int:
    """Fewest validation rows n of a task for sets at a level: ⌈(n + 1) · level⌉ ≤ n."""
    exact = Fraction(str(level))  # the decimal that the user wrote, without the rounding of 1 − level
    return ceil(exact / (1 - exact))


class TaskCalibration(BaseModel):
    """Calibration of one task."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(
        gt=0, allow_inf_nan=False, description="divisor of the logits; above 1 lowers the confidence"
    )
    rows: int = Field(ge=0, description="number of validation rows that it was fitted on")
    remark: str | None = Field(None, description="why the temperature stays 1, if it was not fitted")
    level: float | None = Field(
        None, ge=0.5, lt=1, description="confidence level of the lower bounds; none in a file of format 1"
    )
    curve: tuple[RiskCoveragePoint, ...] = Field(
        (), description="thresholds on the calibrated confidence, from full to low coverage"
    )
    label_sets: LabelSets | None = Field(
        None, description="conformal sets of `moe calibrate --conformal`; none without it, or with too few rows"
    )
    label_thresholds: dict[str, Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None, description="of a multi-label task, calibrated probability from which each label is predicted"
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the thresholds of labels of a task without any, so that earlier releases read the file."""
        values: dict[str, Any] = serialize(self)
        return {key: value for key, value in values.items() if key != "label_thresholds" or value is not None}


class Calibration(BaseModel):
    """Contents of `calibration.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    model: str = Field(description=f"SHA-256 of the {MANIFEST} of the model that it was fitted for")
    routing: Routing = Field("soft", description="how the validation rows were routed that it was fitted on")
    tasks: dict[str, TaskCalibration]

    def require_routing(self, routing: Routing) -> None:
        """Check that texts are routed as the rows were to which thresholds and label sets were fitted.

        Raises:
            Fault: if they are not; the sets and thresholds guarantee nothing for these texts.
        """
        if routing != self.routing:
            remedy = f"predict with --routing {self.routing}, or run moe calibrate --routing {routing}"
            raise Fault(f"{self.routing} routing, with which the model was calibrated", f"{routing} routing", remedy)

    def temperature(self, task: str) -> float:
        """Temperature of a task; 1 for a task that was not calibrated."""
        return self.tasks[task].temperature if task in self.tasks else 1.0

    def thresholds(self, task: str) -> dict[str, float] | None:
        """Thresholds of a multi-label task by label; None for another task, or one that was not calibrated."""
        return self.tasks[task].label_thresholds if task in self.tasks else None

    @property
    def unbounded(self) -> list[str]:
        """Tasks whose thresholds were chosen by the accuracy on the validation rows alone, in a file of format 1."""
        return [name for name, task in self.tasks.items() if task.level is None and task.curve]

    def threshold(self, task: str, accuracy: float) -> float:
        """Lowest confidence threshold at which a task's validation rows guarantee an accuracy, see `find_point`.

        Raises:
            Fault: if no threshold does.
        """
        if task not in self.tasks:
            return require_point(task, (), accuracy).threshold
        return require_point(task, self.tasks[task].curve, accuracy, self.tasks[task].level).threshold

    @property
    def sets_level(self) -> float | None:
        """Level of the label sets; None if no task has any."""
        return next((its.label_sets.level for its in self.tasks.values() if its.label_sets is not None), None)

    def require_sets(self, task: str) -> LabelSets:
        """The label sets of a task.

        Raises:
            Fault: if it has none; it states how many validation rows they need, if these were too few.
        """
        known = self.tasks.get(task)
        if known is not None and known.label_sets is not None:
            return known.label_sets
        expected, level = f"a calibration of task {task} with label sets", self.sets_level
        if level is None:
            raise Fault(expected, "none", "run moe calibrate --conformal 0.9, or predict without label sets")
        raise Fault(
            f"{expected} at level {level:g}, of at least {rows_for_sets(level):,} validation rows",
            f"{known.rows if known else 0:,} rows",
            "calibrate on more validation rows, choose another task, or predict without label sets",
        )


def read_calibration(folder: Path) -> Calibration | None:
    """Read a model's calibration; None if it has none.

    Raises:
        Fault: if the file is broken, has another format, or was fitted for another model.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    calibration = read_record(path, Calibration, FORMAT, "calibration", REMEDY, OLDEST_FORMAT, sealed=3)
    if not (folder / MANIFEST).is_file() or calibration.model != sha256_of(folder / MANIFEST):
        raise Fault(f"the calibration of this model at {path}", "the calibration of another model", REMEDY)
    return calibration


def check_calibrated(calibration: Calibration | None, abstain: float | None, label_sets: bool) -> None:
    """Check that there is a calibration if abstention or label sets need one.

    Raises:
        Fault: if there is none.
    """
    if abstain is not None and calibration is None:
        raise Fault("a calibrated model to abstain with", "no calibration", "run moe calibrate, or remove abstain")
    if label_sets and calibration is None:
        remedy = "run moe calibrate --conformal 0.9, or remove label_sets"
        raise Fault("a calibrated model for label sets", "no calibration", remedy)


def write_calibration(folder: Path, tasks: dict[str, TaskCalibration], routing: Routing = "soft") -> Calibration:
    """Write a model's calibration into its folder, atomically, replacing an earlier one.

    The file of soft routing has no key for it, so that earlier releases read it; others would ignore how texts have to
    be routed.

    The manifest does not list the calibration; the calibration names the manifest by its hash. So no other file of the
    model changes, and a copy of the folder without the calibration is still a complete model.

    Raises:
        Fault: if the folder cannot be written.
    """
    calibration = Calibration(model=sha256_of(folder / MANIFEST), routing=routing, tasks=tasks)
    without: dict[str, Any] = {
        "tasks": {name: {"label_sets"} for name, task in tasks.items() if task.label_sets is None},
        "routing": routing == "soft",
    }
    write_sealed_json(folder / CALIBRATION, calibration.model_dump(mode="json", exclude=without))
    return calibration
