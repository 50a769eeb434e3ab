"""Tests of the served model: with its graph it answers, explains and describes itself as with PyTorch."""

from pathlib import Path

import pytest
from serving import copy_with_other_expert, write_calibrated_mixture, write_mixture

from experts.errors import Fault
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


def test_damaged_model_is_refused_with_the_number_of_its_faults(tmp_path: Path) -> None:
    copy = copy_with_other_expert(write_calibrated_mixture(tmp_path), tmp_path / "copy")
    with pytest.raises(Fault, match="found a fault: Expected the calibration") as single:
        load_served_model(copy)
    assert ".." not in str(single.value)
    (copy / "experts" / "forum" / "adapter_model.safetensors").unlink()
    with pytest.raises(Fault, match=r"found [2-9] faults, the first one: ") as several:
        load_served_model(copy)
    assert str(several.value).endswith(f"Run moe verify {copy} for details.")
