"""Claims about what is found in a run beside its training: the best mixture's rows, what each expert said, hashes."""

from pathlib import Path

from training_logs import evaluated, write_run

from moe.runs.findings import read_findings
from moe.runs.reader import read_run


def test_the_best_mixture_is_told_row_by_row(tmp_path: Path) -> None:
    found = read_findings(read_run(evaluated(write_run(tmp_path / "run"))))
    assert found.model == "moe-joint"
    assert [(one.label, one.predicted, one.correct) for one in found.rows] == [
        ("neutral", "neutral", True),
        ("negative", "positive", False),
    ]
    assert [one.distinct_labels for one in found.expert_predictions] == [1, 2]
    assert found.expert_predictions[1].experts == {"news": ("negative", 0.8), "forum": ("positive", 0.7)}
    assert found.data[0]["rejected"] == 1


def test_it_says_what_the_run_is_made_of(tmp_path: Path) -> None:
    made = read_findings(read_run(evaluated(write_run(tmp_path / "run")))).provenance
    assert made["backbone default, weights"] == "ab" * 32
    assert made["data of news"] == "cd" * 32
    assert len(made["moe-joint, its manifest of all files"]) == 64


def test_logs_alone_find_nothing_and_harm_nothing(tmp_path: Path) -> None:
    found = read_findings(read_run(write_run(tmp_path / "run")))
    assert (found.data, found.rows, found.expert_predictions, found.ablation) == ([], [], [], {})
    assert found.routing["table"], "the run's summary has one"


def test_a_cell_of_any_length_is_read(tmp_path: Path) -> None:
    found = read_findings(read_run(evaluated(write_run(tmp_path / "run"), "a" * 200_000)))
    assert len(found.rows[1].text) == 200_000
