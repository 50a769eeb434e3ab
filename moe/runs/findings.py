"""Results of a run for its report: data, evaluation of its best mixture, predictions of test rows, hashes."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, read_json, sha256_of
from moe.data.formats.csv_rows import next_row
from moe.data.task_reports import TaskReport, read_task_report
from moe.results.ablation import AblationReport
from moe.results.base import read_result
from moe.results.calibration import CalibrationReport
from moe.results.evaluation import EvaluationReport, RoutingReport
from moe.results.run import RunSummary
from moe.runs.layout import ABLATION, ABLATION_RESULT, DATA, EVALUATION, EXPERTS, METRICS, PER_EXPERT, QUESTIONS
from moe.runs.reader import RunLogs

MAX_CELL_CHARACTERS = 2**30
"""Maximum number of characters in a CSV cell."""


@dataclass(frozen=True)
class EvaluatedRow:
    """One labelled test row with its prediction and the confidence in it."""

    domain: str
    task: str
    text: str
    label: str
    predicted: str
    confidence: float

    @property
    def correct(self) -> bool:
        """Whether the prediction is the label."""
        return self.predicted == self.label


@dataclass(frozen=True)
class ExpertPredictions:
    """A test row, and by expert the label and probability that this expert alone predicts."""

    row: EvaluatedRow
    experts: dict[str, tuple[str, float]]

    @property
    def distinct_labels(self) -> int:
        """Number of different labels that the experts predict."""
        return len({label for label, _ in self.experts.values()})


@dataclass(frozen=True)
class Findings:
    """Results of a run.

    Args:
        model: folder name of the mixture: the run's best, else the last evaluated one.
        data: report of each task, from `prepared.json`.
        report: the model's `metrics.json`, or None.
        routing: the model's routing of test rows, or None.
        questions: a language model's `questions.json`, or empty.
        rows: all labelled test rows with their predictions.
        expert_predictions: the same with each expert's own prediction, if these were evaluated.
        calibration: `calibration.json` of the evaluation, or None.
        folder: folder of the model's evaluation.
        ablation: `ablation.json`, or None.
        card: the model's card, or empty.
        provenance: versions and hashes of backbone, data, program and weights, by name.
    """

    model: str | None
    data: list[TaskReport]
    report: EvaluationReport | None
    routing: RoutingReport | None
    questions: dict[str, Any]
    rows: list[EvaluatedRow]
    expert_predictions: list[ExpertPredictions]
    calibration: CalibrationReport | None
    folder: Path
    ablation: AblationReport | None
    card: dict[str, Any]
    provenance: dict[str, str]


def read_findings(run: RunLogs) -> Findings:
    """Read the results in a run folder; those that are missing are empty.

    Raises:
        Fault: if a file exists but cannot be read.
    """
    model = (run.result and run.result.best) or next(reversed(run.evaluations), None) or _last_model(run.folder)
    folder = run.folder / EVALUATION / str(model)
    card = _read_object(run.folder / str(model) / "mixture.json")
    report, summary = read_result(folder / METRICS, EvaluationReport), run.summary or RunSummary()
    routing = report.routing if report else None
    return Findings(
        model=model,
        data=_task_reports(run),
        report=report,
        routing=routing if routing and routing.table else summary.routing,
        questions=_read_object(folder / QUESTIONS),
        rows=[_evaluated_row(row) for name in ("right.csv", "wrong.csv") for row in _read_csv(folder / name)],
        expert_predictions=[_expert_predictions(row) for row in _read_csv(folder / PER_EXPERT)],
        calibration=read_result(folder / "calibration.json", CalibrationReport),
        folder=folder,
        ablation=read_result(run.folder / ABLATION / ABLATION_RESULT, AblationReport),
        card=card,
        provenance=dict(_provenance(run.folder, model, card)),
    )


def _task_reports(run: RunLogs) -> list[TaskReport]:
    """Read the reports of all prepared tasks, in the order of the config."""
    folders = [path.parent for path in sorted(run.folder.glob(f"{DATA}/*/*/prepared.json"))]
    tasks = run.in_order([folder.name for folder in folders])
    return [read_task_report(folder) for folder in sorted(folders, key=lambda folder: tasks.index(folder.name))]


def _last_model(folder: Path) -> str | None:
    return next((card.parent.name for card in sorted(folder.glob("*/mixture.json"), reverse=True)), None)


def _read_object(path: Path) -> dict[str, Any]:
    content = read_json(path) if path.is_file() else {}
    return content if isinstance(content, dict) else {}


def _read_csv(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        return
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        while (row := next_row(rows, MAX_CELL_CHARACTERS)) is not None:
            yield row


def _evaluated_row(row: Mapping[str, str]) -> EvaluatedRow:
    return EvaluatedRow(
        domain=row.get("domain") or "",
        task=row.get("task") or "",
        text=row.get("text") or "",
        label=row.get("label") or "",
        predicted=row.get("predicted") or "",
        confidence=float(row.get("confidence") or 0),
    )


def _expert_predictions(row: Mapping[str, str]) -> ExpertPredictions:
    names = [key.removeprefix("alone.") for key in row if key.startswith("alone.")]
    experts = {name: (row[f"alone.{name}"], float(row[f"probability.{name}"])) for name in names}
    return ExpertPredictions(_evaluated_row(row), experts)


def _provenance(folder: Path, model: str | None, card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names with versions or hashes: backbone, data, program, and the manifest of every folder of weights."""
    if backbone := card.get("backbone"):
        yield f"backbone {backbone.get('name')}, weights", str(backbone.get("sha256"))
    yield from ((f"data of {task}", digest) for task, digest in card.get("data_sha256", {}).items())
    yield from card.get("versions", {}).items()
    for path in [*sorted(folder.glob(f"{EXPERTS}/*")), *([folder / model] if model else [])]:
        if (path / MANIFEST).is_file():
            yield f"{path.relative_to(folder).as_posix()}, its manifest of all files", sha256_of(path / MANIFEST)
