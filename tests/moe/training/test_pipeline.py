"""The examples that end a run: plain sentences after a run on the sample, else test rows of the user's files."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from conftest import Make

from moe.config.run import load_run
from moe.inference.torch_predictor import TorchPredictor
from moe.runs.workspace import Workspace
from moe.training import pipeline


class NoPredictor(TorchPredictor):
    """Stands in for a model, which the stand-in of `predict_rows` does not use."""

    def __init__(self) -> None:
        pass


@pytest.fixture(autouse=True)
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Return rows without predictions."""

    def predict(rows: Iterable[dict[str, Any]], predictor: TorchPredictor) -> Iterable[dict[str, Any]]:
        return rows

    monkeypatch.setattr(pipeline, "predict_rows", predict)


def test_examples_of_a_run_on_the_sample_are_plain_sentences_of_no_domain_s_rows(tmp_path: Path) -> None:
    work = Workspace(load_run(None, ["sample.rows=60"]), tmp_path)
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    assert texts == list(pipeline.PLAIN_SENTENCES)
    assert not set(texts) & set(work.rows("test")["text"])


def test_examples_of_a_run_on_files_are_its_first_test_rows_domains_in_turn(make_work: Make) -> None:
    work = make_work()
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    news, forum = (work.rows("test", [domain])["text"] for domain in ("news", "forum"))
    assert texts == [news[0], forum[0], news[1]]


def test_examples_are_test_rows_if_one_domain_has_a_file(make_work: Make) -> None:
    work = make_work(sample={"rows": 60}, domains={"forum": {"file": None}})
    texts = [row["text"] for row in pipeline.example_predictions(work, NoPredictor())]
    assert texts[0] == work.rows("test", ["news"])["text"][0]
