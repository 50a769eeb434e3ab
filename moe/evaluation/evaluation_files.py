"""Files of an evaluation: metrics, the correct and incorrect rows, and the answers of each expert on its own."""

from collections.abc import Sequence
from pathlib import Path

from experts.atomic_io import write_json
from experts.errors import Fault
from moe.data.formats.writers import open_writer
from moe.evaluation.rows import PredictedRow
from moe.inference.per_expert import per_expert_columns
from moe.inference.torch_predictor import TorchPredictor
from moe.results.evaluation import EvaluationReport
from moe.runs import layout


def write_evaluation(folder: Path, report: EvaluationReport, rows: Sequence[PredictedRow]) -> None:
    """Write `metrics.json`, and the correct and incorrect rows as `right.csv` and `wrong.csv`.

    Raises:
        Fault: if the folder cannot be written.
    """
    write_json(folder / layout.METRICS, report)
    (folder / layout.PER_EXPERT).unlink(missing_ok=True)  # it belongs to an earlier evaluation
    for name, correct in (("right.csv", True), ("wrong.csv", False)):
        with open_writer(folder / name) as writer:
            for row in rows:
                if row.true is not None and (row.masked.label == row.true) is correct:
                    writer.write(_csv_columns(row))


def write_per_expert(folder: Path, predictor: TorchPredictor, rows: Sequence[PredictedRow]) -> None:
    """Write the labelled rows as `alone.csv`, with the label and confidence of each expert on its own.

    Raises:
        Fault: if the model has a single expert, or the folder cannot be written.
    """
    if predictor.mode.active_expert is not None or len(predictor.model.bank.routed_experts) < 2:
        raise Fault("a mixture of several experts for --per-expert", "one expert", "remove --per-expert")
    labelled = [row for row in rows if row.true is not None]
    if not labelled:
        raise Fault("rows with a label for --per-expert", "rows with scores alone", "remove --per-expert")
    texts, tasks = [row.row["text"] for row in labelled], [row.row["task"] for row in labelled]
    targets = [row.row["target"] for row in labelled]
    with open_writer(folder / layout.PER_EXPERT) as writer:
        per_expert = per_expert_columns(predictor, texts, tasks, targets, quiet=False)
        for row, columns in zip(labelled, per_expert, strict=True):
            writer.write(_csv_columns(row) | dict(columns))


def _csv_columns(row: PredictedRow) -> dict[str, object]:
    return {
        "id": row.row["id"],
        "domain": row.row["domain"],
        "task": row.row["task"],
        "text": row.row["text"],
        **({"target": row.row["target"]} if row.row["target"] is not None else {}),
        "label": row.true,
        "predicted": row.masked.label,
        "predicted_routed": row.routed.label,
        "confidence": round(row.masked.confidence, 6),
        "score": _rounded(row.row["score"]),
        "polarity": _rounded(row.masked.polarity),
        "routing_entropy": round(row.masked.entropy, 6),
    }


def _rounded(score: float | None) -> float | None:
    """A score as it was written, without the digits that single precision adds."""
    return None if score is None else round(score, 6)
