"""Claims about results: which fields JSON has, in which order, and that they are read back as they were written."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from experts.atomic_io import write_json
from experts.json_io import json_object
from moe.errors import Fault
from moe.results.base import read_result
from moe.results.metrics import MeanMetrics, ScoreMetrics, TaskFigures
from moe.results.run import RunSummary, TrainedFolder

SUMMARY = RunSummary(
    means={"tfidf": MeanMetrics(accuracy=0.5, macro_f1=0.4, macro_f1_interval=(0.3, 0.5)), "scored": None},
    figures={"tfidf": {"news": TaskFigures(mse=0.25, mse_interval=(0.2, 0.3), pearson=None)}},
)


def test_json_has_the_fields_that_were_set_in_the_order_of_their_declaration() -> None:
    assert json.dumps(json_object(SUMMARY)) == (
        '{"figures": {"tfidf": {"news": {"mse": 0.25, "mse_interval": [0.2, 0.3], "pearson": null}}}, '
        '"means": {"tfidf": {"accuracy": 0.5, "macro_f1": 0.4, "macro_f1_interval": [0.3, 0.5]}, "scored": {}}}'
    )


def test_field_whose_name_differs_in_json_is_written_under_that_name() -> None:
    folder = TrainedFolder(folder="a", reused=True, steps=3, validation={})
    assert json_object(folder) == {"folder": "a", "kept": True, "steps": 3, "validation": {}}
    assert TrainedFolder.model_validate(json_object(folder)) == folder


def test_result_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", SUMMARY)
    again = read_result(tmp_path / "summary.json", RunSummary)
    assert again == SUMMARY
    assert json_object(again) == json_object(SUMMARY), "also which fields are set"
    assert read_result(tmp_path / "none.json", RunSummary) is None


def test_file_of_something_else_is_refused_with_its_first_problem(tmp_path: Path) -> None:
    write_json(tmp_path / "summary.json", {"figures": {"tfidf": {"news": {"mse": "small"}}}})
    with pytest.raises(Fault, match=r"RunSummary at .*summary.json; found figures.tfidf.news.mse: Input should be"):
        read_result(tmp_path / "summary.json", RunSummary)
    write_json(tmp_path / "summary.json", [1])
    with pytest.raises(Fault, match=r"JSON object at .*summary.json; found a list"):
        read_result(tmp_path / "summary.json", RunSummary)


def test_result_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        setattr(ScoreMetrics(mse=0.1, mae=0.2), "mse", 0.3)  # noqa: B010 - an assignment that types forbid


def test_metrics_are_found_by_name_and_missing_ones_are_none() -> None:
    figures = SUMMARY.figures["tfidf"]["news"]
    assert (figures.value("mse"), figures.interval("mse")) == (0.25, (0.2, 0.3))
    assert figures.value("accuracy") is figures.interval("accuracy") is figures.value("perplexity") is None
