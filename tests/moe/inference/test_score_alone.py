"""Predictions of tasks with a score alone: rows, options, exports, explanations and the service."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from conftest import SCORE_ALONE
from exports import save_and_load_mixture
from mixtures import TEXTS, tokenize_texts
from rich.console import Console
from serving import service_client
from starlette.testclient import TestClient

from experts.errors import Fault
from moe.api.auto import FinMoEForSequenceClassification
from moe.api.model import FinMoEModel
from moe.data.formats.writers import open_writer
from moe.explain.explain import explain
from moe.explain.lexicon import task_labels
from moe.explain.terminal import explanation_view
from moe.export.graph import write_graph
from moe.export.inference_spec import build_export_spec
from moe.export.onnx import MixtureGraph
from moe.export.selection import ExportSource
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.load import LoadOptions, load, load_torch
from moe.inference.stream import predict_rows, predict_texts
from moe.labels.rows import check_label_task
from moe.report.terminal import answers_table
from moe.runs.model_ref import resolve


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A mixture whose domain news has labels, and forum a score alone."""
    return save_and_load_mixture(tmp_path_factory.mktemp("score"), domains=SCORE_ALONE)


@pytest.fixture(scope="module")
def client(source: ExportSource) -> Iterator[TestClient]:
    """A service of the mixture."""
    with service_client(source.folder) as client:
        yield client


def _rows(source: ExportSource, task: str | None = None) -> list[dict[str, Any]]:
    return list(predict_rows([{"text": text} for text in TEXTS], load_torch(resolve(source.folder)), task=task))


def test_row_has_a_polarity_and_no_label(source: ExportSource, tmp_path: Path) -> None:
    rows = _rows(source, "forum")
    assert {(row["label"], row["confidence"], str(row["probabilities"])) for row in rows} == {(None, None, "{}")}
    assert len({row["polarity"] for row in rows}) == len(rows)
    assert all(-1 <= row["polarity"] <= 1 for row in rows)
    mixed = [*rows, *_rows(source, "news")]
    for ending in (".csv", ".jsonl", ".parquet"):
        with open_writer(tmp_path / f"rows{ending}") as writer:
            for row in mixed:
                writer.write(row)
    table = pq.read_table(tmp_path / "rows.parquet").to_pydict()
    assert table["label"][0] is None
    assert table["label"][-1] is not None
    console = Console(width=120, record=True)
    console.print(answers_table(mixed))
    assert f"{rows[0]['polarity']:+.2f}" in console.export_text()


def test_options_of_labels_are_refused_for_a_named_score_and_skipped_otherwise(tmp_path: Path) -> None:
    own = save_and_load_mixture(tmp_path, domains=SCORE_ALONE)
    write_calibration(own.folder, {"news": TaskCalibration(temperature=1.0, rows=100, level=None, curve=())})
    predictor = load_torch(resolve(own.folder))
    for options, name in (({"abstain": 0.5}, "abstention"), ({"label_sets": True}, "label sets")):
        with pytest.raises(Fault, match=f"a task with labels for {name}; found forum"):
            predictor.with_options("soft", **options).check("forum", None)
    predictor.check("forum", None)
    assert predict_texts(TEXTS, predictor.with_options("soft", 0.5), task="forum")[0].abstained is None


def test_graph_has_the_scores_of_torch(source: ExportSource) -> None:
    expected = _rows(source, "forum")
    write_graph(source.folder)
    predictor = load(resolve(source.folder), LoadOptions(runtime="onnx"))
    rows = list(predict_rows([{"text": text} for text in TEXTS], predictor, task="forum"))
    for row, other in zip(rows, expected, strict=True):
        assert row["polarity"] == pytest.approx(other["polarity"], abs=1e-4)


def test_exported_graph_has_the_score_as_its_polarity_and_probabilities_of_labels(source: ExportSource) -> None:
    module = MixtureGraph(source.model, build_export_spec(source)).eval()
    inputs = tokenize_texts(source.model)
    with torch.no_grad():
        outputs = module(inputs["input_ids"], inputs["attention_mask"], torch.full((3,), -1))
    assert set(outputs) == {"probabilities/news", "polarity", "shares"}
    expected = [row["polarity"] for row in _rows(source, "forum")]
    np.testing.assert_allclose(outputs["polarity"], expected, atol=1e-5)


def test_explanation_attributes_the_score_to_words(source: ExportSource) -> None:
    explanation = explain(load_torch(resolve(source.folder)), TEXTS[1], task="forum", steps=64)
    assert explanation.why.of == "score"
    assert explanation.why.value == pytest.approx(explanation.answer["polarity"], abs=1e-4)
    assert abs(explanation.why.delta) < 0.02
    alone = explanation.alone["forum"]
    assert (alone.label, alone.probability) == (None, None)
    console = Console(width=120, record=True)
    console.print(explanation_view(explanation))
    shown = console.export_text()
    assert f"score {explanation.answer['polarity']:+.2f}" in shown
    assert "words raise the score" in shown


def test_what_needs_labels_refuses_a_score_alone(source: ExportSource) -> None:
    with pytest.raises(Fault, match="a task with labels for a lexicon; found forum"):
        task_labels(load_torch(resolve(source.folder)), "forum")
    spec = load_torch(resolve(source.folder)).spec
    with pytest.raises(Fault, match="a task with labels for labelling; found forum"):
        check_label_task(spec, "forum", routed=True)
    with pytest.raises(Fault, match="none, and forum has a score alone"):
        check_label_task(spec, None, routed=True)
    check_label_task(spec, None, routed=False)
    with pytest.raises(Fault, match="task forum, which has a score alone"):
        FinMoEForSequenceClassification.from_pretrained(source.folder)


def test_library_predicts_no_label_and_the_score_among_its_answers(source: ExportSource) -> None:
    model = FinMoEModel.from_pretrained(str(source.folder))
    assert model.predict(TEXTS, task="forum") == [None] * 3
    assert not model.predict_proba(TEXTS, task="forum").any()
    assert model.tasks["forum"] == ()
    assert model.answers(TEXTS, task="forum")[0]["polarity"] == _rows(source, "forum")[0]["polarity"]


def test_service_returns_the_score_and_refuses_it_in_forms_of_labels(client: TestClient, source: ExportSource) -> None:
    response = client.post("/v1/predict", json={"texts": TEXTS, "task": "forum"})
    assert response.status_code == 200
    first = response.json()["answers"][0]
    assert (first["label"], first["confidence"], first["probabilities"]) == (None, None, {})
    assert first["polarity"] == pytest.approx(_rows(source, "forum")[0]["polarity"], abs=1e-4)
    for route, body in (("/predict", {"inputs": TEXTS[0]}), ("/classify", {"input": TEXTS[0]})):
        refusal = client.post(route, json=body | {"task": "forum"})
        assert refusal.status_code == 409
        assert "forum, which has a score alone" in refusal.text
        assert client.post(route, json=body).status_code == 200
    explained = client.post("/v1/explain", json={"text": TEXTS[0], "task": "forum", "steps": 2})
    assert explained.json()["why"]["of"] == "score"
    assert client.get("/v1/models").json()["data"][0]["labels"]["forum"] == []
