"""A model's calibration: by task a temperature, and the curve that thresholds are read from; `calibration.json`.

It is fitted by `moe.evaluation.calibrate`. Nothing heavy is imported here, since every answer asks.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from experts.atomic_io import MANIFEST, sha256_of, write_json
from experts.cards import read_record
from experts.errors import Fault
from moe.inference.abstention import RiskCoveragePoint, require_point

CALIBRATION = "calibration.json"
FORMAT = 1
REMEDY = "run moe calibrate, or delete it"


class TaskCalibration(BaseModel):
    """One task's calibration."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    temperature: float = Field(gt=0, allow_inf_nan=False, description="logits are divided by it; above 1 is less sure")
    rows: int = Field(ge=0, description="validation rows that it was fitted on")
    curve: tuple[RiskCoveragePoint, ...] = Field((), description="thresholds of calibrated confidence, from all rows to few")


class Calibration(BaseModel):
    """What `calibration.json` holds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    model: str = Field(description=f"SHA-256 of the {MANIFEST} of the model that it was fitted for")
    tasks: dict[str, TaskCalibration]

    def temperature(self, task: str) -> float:
        """A task's temperature, 1 for one that was not calibrated."""
        return self.tasks[task].temperature if task in self.tasks else 1.0

    def threshold(self, task: str, wanted: float) -> float:
        """The confidence from which answers to a task are as accurate as wanted, on validation rows.

        Raises:
            Fault: when none is.
        """
        return require_point(task, self.tasks[task].curve if task in self.tasks else (), wanted).threshold


def read_calibration(folder: Path) -> Calibration | None:
    """A model's calibration; None where it has none.

    Raises:
        Fault: when the file is broken, of another format, or was fitted for another model.
    """
    path = folder / CALIBRATION
    if not path.is_file():
        return None
    found = read_record(path, Calibration, FORMAT, "calibration", REMEDY)
    if not (folder / MANIFEST).is_file() or found.model != sha256_of(folder / MANIFEST):
        raise Fault(f"the calibration of this model at {path}", "that of another", REMEDY)
    return found


def write_calibration(folder: Path, tasks: dict[str, TaskCalibration]) -> Calibration:
    """Write a model's calibration beside its other files, whole, over an older one.

    The manifest is left as it is: it does not list the calibration, the calibration names the manifest. So nothing else
    of the model changes, and a copy without the calibration is a whole model.

    Raises:
        Fault: when the folder cannot be written.
    """
    calibration = Calibration(model=sha256_of(folder / MANIFEST), tasks=tasks)
    write_json(folder / CALIBRATION, calibration.model_dump(mode="json"))
    return calibration
