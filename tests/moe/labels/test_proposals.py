"""Rows to label next: unlabelled texts only, each once, by the model or by the rows that are labelled already."""

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Make, made_up_rows, write_csv
from mixtures import save_random_mixture

from experts.errors import Fault
from moe.inference.text_io import OutputTarget, TextSource
from moe.labels.proposals import propose_rows
from moe.labels.selection import Strategy
from moe.model.backbone import load_backbone
from moe.runs.model_ref import ModelRef, resolve


@pytest.fixture
def mixture(make_work: Make) -> ModelRef:
    """A random mixture of two experts, away from the folder of its run."""
    work = make_work()
    return resolve(save_random_mixture(work.out / "moe-joint", load_backbone(work.run.backbone), work))


def source(folder: Path, labelled: int, rows: int = 40) -> TextSource:
    """A file whose first rows are labelled; two of the others repeat a text."""
    content: list[dict[str, Any]] = [{**row} for row in made_up_rows("news", rows, seed=5)]
    for row in content[labelled:]:
        row["label"] = ""
    content[-1]["text"] = content[0]["text"].upper()
    content[-2]["text"] = content[-3]["text"]
    return TextSource(file=write_csv(folder / "rows.csv", content))


@pytest.mark.parametrize("by", ["uncertainty", "disagreement", "mixed"])
def test_proposals_are_unlabelled_texts_each_once(mixture: ModelRef, tmp_path: Path, by: Strategy) -> None:
    report = propose_rows(source(tmp_path, labelled=12), mixture, most=100, by=by)
    assert (report.unlabelled, report.labelled, report.repeated) == (28, 12, 2)
    assert sorted(row.line for row in report.proposals) == list(range(14, 40))
    assert [row.rank for row in report.proposals] == list(range(1, 27))
    assert report.probabilities == "labelled rows"


def test_proposals_without_labelled_rows_are_by_the_model_and_best_first(mixture: ModelRef, tmp_path: Path) -> None:
    report = propose_rows(source(tmp_path, labelled=0), mixture, most=7, by="uncertainty")
    assert report.probabilities == "model"
    scores = [row.score for row in report.proposals]
    assert len(scores) == 7
    assert scores == sorted(scores, reverse=True)
    assert all(row.label is None and row.suggested and 0 < row.probability <= 1 for row in report.proposals)


def test_proposals_are_written_as_tasks_for_label_studio(mixture: ModelRef, tmp_path: Path) -> None:
    out = tmp_path / "tasks.json"
    report = propose_rows(source(tmp_path, labelled=12), mixture, OutputTarget(out), most=3, by="diversity")
    tasks = json.loads(out.read_text(encoding="utf-8"))
    assert [task["data"]["row_id"] for task in tasks] == [row.id for row in report.proposals]


def test_file_in_which_all_rows_are_labelled_is_refused(mixture: ModelRef, tmp_path: Path) -> None:
    with pytest.raises(Fault, match=r"texts without a label.*a label in all 40 rows"):
        propose_rows(source(tmp_path, labelled=40), mixture)
    with pytest.raises(Fault, match=r"found only texts that also have one"):
        propose_rows(source(tmp_path, labelled=39), mixture)
