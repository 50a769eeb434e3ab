"""What is known of a run beside its training: its rows, how its best mixture was judged, text by text, its hashes.

Training's logs are `moe.runs.reader`'; pictures are `moe.plots.results`', the page's sections `moe.report.sections`'.
"""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experts.atomic_io import MANIFEST, read_json, sha256_of
from moe.runs.reader import METRICS, RunLogs

PER_EXPERT_CSV, QUESTIONS_JSON = "alone.csv", "questions.json"
LONGEST = 2**30
"""Letters of the longest cell of a csv."""


@dataclass(frozen=True)
class EvaluatedRow:
    """One labelled test row as it was answered: its texts and names, the confidence, whether it was right."""

    domain: str
    task: str
    text: str
    label: str
    said: str
    confidence: float

    @property
    def right(self) -> bool:
        """Whether the answer is the label."""
        return self.said == self.label


@dataclass(frozen=True)
class ExpertPredictions:
    """A test row, and by expert the label and probability that it alone gave."""

    row: EvaluatedRow
    experts: dict[str, tuple[str, float]]

    @property
    def voices(self) -> int:
        """How many different labels the experts gave."""
        return len({label for label, _ in self.experts.values()})


@dataclass(frozen=True)
class Findings:
    """What was found.

    Args:
        model: the mixture's folder name; the run's best, else the last that was measured.
        data: `prepared.json`'s report of every task.
        report: the model's `metrics.json`, or empty.
        routing: the model's routing of test rows: `table`, `accuracy`, `entropy`; or empty.
        questions: a language model's `questions.json`, or empty.
        rows: every labelled test row as answered.
        alone: the same with each expert's own answer, where that was asked for.
        calibration: `calibration.json` of the evaluation, or empty.
        folder: where the model's evaluation lies.
        ablation: `ablation.json`, or empty.
        card: the model's card, or empty.
        made_of: what the run is made of and hashes of it, name by name.
    """

    model: str | None
    data: list[dict[str, Any]]
    report: dict[str, Any]
    routing: dict[str, Any]
    questions: dict[str, Any]
    rows: list[EvaluatedRow]
    alone: list[ExpertPredictions]
    calibration: dict[str, Any]
    folder: Path
    ablation: dict[str, Any]
    card: dict[str, Any]
    made_of: dict[str, str]


def read_findings(run: RunLogs) -> Findings:
    """Read what a run folder holds of them; what is not there is empty.

    Raises:
        Fault: when a file is there and cannot be read.
    """
    model = run.result.get("best") or next(reversed(run.evaluations), None) or _last_model(run.folder)
    folder = run.folder / "evaluation" / str(model)
    card = _content(run.folder / str(model) / "mixture.json")
    report = _content(folder / METRICS)
    routing = report.get("routing") or {}
    return Findings(
        model=model,
        data=[_content(path).get("report", {}) for path in sorted(run.folder.glob("data/*/*/prepared.json"))],
        report=report,
        routing=routing if routing.get("table") else run.summary.get("routing") or {},
        questions=_content(folder / QUESTIONS_JSON),
        rows=[_judged(row) for name in ("right.csv", "wrong.csv") for row in _rows(folder / name)],
        alone=[_heard(row) for row in _rows(folder / PER_EXPERT_CSV)],
        calibration=_content(folder / "calibration.json"),
        folder=folder,
        ablation=_content(run.folder / "ablation" / "ablation.json"),
        card=card,
        made_of=dict(_made_of(run.folder, model, card)),
    )


def _last_model(folder: Path) -> str | None:
    return next((name.parent.name for name in sorted(folder.glob("*/mixture.json"), reverse=True)), None)


def _content(path: Path) -> dict[str, Any]:
    found = read_json(path) if path.is_file() else {}
    return found if isinstance(found, dict) else {}


def _rows(path: Path) -> Iterator[dict[str, str]]:
    if not path.is_file():
        return
    csv.field_size_limit(LONGEST)
    with path.open(encoding="utf-8", newline="") as stream:
        yield from csv.DictReader(stream)


def _judged(row: Mapping[str, str]) -> EvaluatedRow:
    names = ("domain", "task", "text", "label", "predicted")
    domain, task, text, label, said = (row.get(name) or "" for name in names)
    return EvaluatedRow(domain, task, text, label, said, float(row.get("confidence") or 0))


def _heard(row: Mapping[str, str]) -> ExpertPredictions:
    names = [key.removeprefix("alone.") for key in row if key.startswith("alone.")]
    return ExpertPredictions(_judged(row), {name: (row[f"alone.{name}"], float(row[f"probability.{name}"])) for name in names})


def _made_of(folder: Path, model: str | None, card: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and hashes: backbone, data, program, and the manifest of every folder of weights."""
    if backbone := card.get("backbone"):
        yield f"backbone {backbone.get('name')}, weights", str(backbone.get("sha256"))
    yield from ((f"data of {task}", digest) for task, digest in card.get("data_sha256", {}).items())
    yield from card.get("versions", {}).items()
    for one in [*sorted(folder.glob("experts/*")), *([folder / model] if model else [])]:
        if (one / MANIFEST).is_file():
            yield f"{one.relative_to(folder).as_posix()}, its manifest of all files", sha256_of(one / MANIFEST)
