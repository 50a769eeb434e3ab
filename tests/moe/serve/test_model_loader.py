"""Tests of the served model: with its graph it answers, explains and describes itself as with PyTorch."""

from pathlib import Path

import pytest
from serving import write_mixture

from moe.export.graph import write_graph
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.load import LoadOptions, Runtime
from moe.serve.engine_classify import ClassifyRequest
from moe.serve.engine_explain import ExplainEngine, ExplainRequest
from moe.serve.model_loader import load_served_model

TEXTS = ("profit rose today", "moon bags fell again", "rates")


def test_service_with_a_graph_answers_explains_and_describes_itself_as_with_torch(tmp_path: Path) -> None:
    folder = write_mixture(tmp_path)
    write_graph(folder)
    results = []
    runtimes: tuple[Runtime, ...] = ("onnx", "torch")
    for runtime in runtimes:
        served = load_served_model(folder, LoadOptions(runtime=runtime, threads=1))
        assert isinstance(served.engine, ExplainEngine)
        assert isinstance(served.engine.classifier.predictor, OnnxPredictor) == (runtime == "onnx")
        prediction, explanation = served.engine.run_batch(
            [ClassifyRequest(TEXTS, routing="hard"), ExplainRequest(TEXTS[0], steps=8)]
        )
        results.append((served.info, [*prediction["answers"], explanation["answer"]]))
    (info, rows), (torch_info, torch_rows) = results
    assert info | {"since": ""} == torch_info | {"since": ""}
    for row, expected in zip(rows, torch_rows, strict=True):
        assert row["label"] == expected["label"]
        assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-4)
        assert row["experts"] == pytest.approx(expected["experts"], abs=1e-4)
