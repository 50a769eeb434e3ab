"""Tests of reading a run's results: predictions of the best mixture and of each expert, hashes."""

from pathlib import Path

from training_logs import write_evaluated_run, write_run

from moe.runs.findings import read_findings
from moe.runs.reader import read_run


def test_findings_hold_the_predictions_of_the_best_mixture(tmp_path: Path) -> None:
    findings = read_findings(read_run(write_evaluated_run(write_run(tmp_path / "run"))))
    assert findings.model == "moe-joint"
    assert [(row.label, row.predicted, row.correct) for row in findings.rows] == [
        ("neutral", "neutral", True),
        ("negative", "positive", False),
    ]
    assert [row.distinct_labels for row in findings.expert_predictions] == [1, 2]
    assert findings.expert_predictions[1].experts == {"news": ("negative", 0.8), "forum": ("positive", 0.7)}
    assert findings.data[0].rejected == 1


def test_findings_hold_the_provenance_of_the_run(tmp_path: Path) -> None:
    provenance = read_findings(read_run(write_evaluated_run(write_run(tmp_path / "run")))).provenance
    assert provenance["backbone default, weights"] == "ab" * 32
    assert provenance["data of news"] == "cd" * 32
    assert len(provenance["moe-joint, its manifest of all files"]) == 64


def test_findings_of_a_run_with_logs_only_are_empty(tmp_path: Path) -> None:
    findings = read_findings(read_run(write_run(tmp_path / "run")))
    assert (findings.data, findings.rows, findings.expert_predictions, findings.ablation) == ([], [], [], None)
    assert findings.routing.table, "the run's summary has one"


def test_findings_read_csv_cells_of_any_length(tmp_path: Path) -> None:
    findings = read_findings(read_run(write_evaluated_run(write_run(tmp_path / "run"), "a" * 200_000)))
    assert len(findings.rows[1].text) == 200_000
