"""Tests of graphs: onnxruntime and OpenVINO match PyTorch for any number of texts and tokens."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx as onnx_model
import onnxruntime
import pytest
import torch
from conftest import FAMILIES, TOPICS, save_backbone, topic_domain
from exports import save_and_load_mixture
from mixtures import TEXTS
from tokenizers import Tokenizer

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.export import onnx
from moe.export.inference_spec import SPEC_FILE, build_export_spec
from moe.export.onnx import (
    ONNX_FILE,
    OPENVINO_FILE,
    TOKENIZER_FILE,
    MixtureGraph,
    check_graph_support,
    convert_to_openvino,
    load_openvino_model,
    write_onnx,
    write_openvino,
)
from moe.export.selection import ExportSource, load_export_source
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_texts
from moe.runs.model_ref import resolve

SHAPES = ((1, 1), (1, 9), (4, 5), (3, 16))
PAGE = Path(__file__).parents[3] / "docs" / "export.md"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A calibrated mixture with a trunk, a shared expert and one head per expert."""
    folder = save_and_load_mixture(tmp_path_factory.mktemp("graph"), shared=True).folder
    temperatures = {"news": 1.7, "forum": 0.6}
    tasks = {task: TaskCalibration(temperature=value, rows=9) for task, value in temperatures.items()}
    write_calibration(folder, tasks)
    return load_export_source(folder, ())


@pytest.fixture(scope="module")
def exported(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph."""
    out = tmp_path_factory.mktemp("out") / "onnx"
    report = write_onnx(out, source, overwrite=False)
    assert list(report.inputs) == ["input_ids", "attention_mask", "domain"]
    assert list(report.outputs) == ["probabilities/news", "probabilities/forum", "polarity", "shares"]
    assert report.difference < 1e-4
    return out


def random_inputs(rows: int, length: int) -> dict[str, np.ndarray]:
    """Return random token ids with padding in the first row, and domains of which some are −1."""
    torch.manual_seed(rows * length)
    ids, mask = torch.randint(4, 30, (rows, length)), torch.ones(rows, length, dtype=torch.long)  # (B, T)
    if length > 1:
        mask[0, -1] = ids[0, -1] = 0
    domain = torch.arange(rows) % 3 - 1  # (B,)
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "domain": domain.numpy()}


def run_torch(source: ExportSource, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = MixtureGraph(source.model, build_export_spec(source))(*map(torch.from_numpy, inputs.values()))
    return {name: tensor.numpy() for name, tensor in out.items()}


@pytest.mark.parametrize(("rows", "length"), SHAPES)
def test_onnx_graph_matches_torch_at_any_shape(source: ExportSource, exported: Path, rows: int, length: int) -> None:
    inputs = random_inputs(rows, length)
    session = onnxruntime.InferenceSession(str(exported / ONNX_FILE))
    names = read_json(exported / SPEC_FILE)["outputs"]
    for name, output in zip(names, session.run(names, inputs), strict=True):
        np.testing.assert_allclose(output, run_torch(source, inputs)[name], atol=1e-4)


@pytest.mark.slow
def test_openvino_model_matches_torch_at_any_shape(source: ExportSource, exported: Path, tmp_path: Path) -> None:
    convert_to_openvino(exported / ONNX_FILE, tmp_path / OPENVINO_FILE)
    model = load_openvino_model(tmp_path / OPENVINO_FILE)
    for shape in SHAPES:
        inputs = random_inputs(*shape)
        outputs = model(list(inputs.values()))
        for name, expected in run_torch(source, inputs).items():
            np.testing.assert_allclose(outputs[name], expected, atol=1e-4)


def test_exported_tokenizer_and_graph_match_moe_infer(source: ExportSource, exported: Path) -> None:
    spec = read_json(exported / SPEC_FILE)
    tokenizer = Tokenizer.from_file(str(exported / TOKENIZER_FILE))
    texts = [*TEXTS, " ".join(["profit rose again"] * 20)]
    encoded = tokenizer.encode_batch([spec["template"].replace("{text}", text) for text in texts])
    inputs = {
        "input_ids": np.array([encoding.ids for encoding in encoded]),
        "attention_mask": np.array([encoding.attention_mask for encoding in encoded]),
    }
    session = onnxruntime.InferenceSession(str(exported / ONNX_FILE))
    for domain, number in ((None, -1), ("forum", 1)):
        outputs = session.run(spec["outputs"], inputs | {"domain": np.full(len(texts), number)})
        by_name = dict(zip(spec["outputs"], outputs, strict=True))
        for i, expected in enumerate(predict_texts(texts, load(resolve(source.folder)), domain, "forum")):
            np.testing.assert_allclose(by_name["probabilities/forum"][i], expected.probabilities, atol=1e-4)
            np.testing.assert_allclose(by_name["shares"][i], expected.routing_weights, atol=1e-4)
            assert by_name["polarity"][i] == pytest.approx(expected.polarity, abs=1e-4)
    assert spec["tasks"]["forum"]["temperature"] == 0.6


def test_documented_code_matches_moe_infer_without_torch(source: ExportSource, exported: Path, tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (code,) = [block for block in blocks if "onnxruntime" in block]
    (tmp_path / "runs" / "demo" / "export").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "export" / "onnx").symlink_to(exported)
    guard = "\nimport sys\nassert not {'torch', 'transformers', 'moe'} & set(sys.modules)\n"
    done = subprocess.run(
        [sys.executable, "-c", code + guard], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    texts = ["Profit fell less than feared.", "to the moon, said my broke cousin"]
    predictions = predict_texts(texts, load(resolve(source.folder)))
    for line, expected in zip(done.stdout.splitlines(), predictions, strict=True):
        assert line.startswith(f"{expected.label} {expected.confidence:.3g}"[:-1])


def test_graph_export_rejects_deberta_and_missing_packages(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Fault, match="position biases"):
        check_graph_support(save_and_load_mixture(tmp_path, "deberta-v2"))
    monkeypatch.setattr(onnx, "REQUIRED_PACKAGES", ("nothing_of_this_name",))
    with pytest.raises(Fault, match=r"pip install 'finmoe\[export\]'"):
        write_onnx(tmp_path / "out", source, overwrite=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_openvino_folder_contains_the_model_without_the_onnx_graph(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "openvino"
    write_openvino(out, source, overwrite=False)
    names = {path.name for path in out.iterdir()}
    assert {"openvino_model.xml", "openvino_model.bin", TOKENIZER_FILE, SPEC_FILE} <= names
    assert not (out / ONNX_FILE).exists()


SUPPORTED_FAMILIES = [family for family in FAMILIES if family not in ("bert", "deberta-v2", "xlm-roberta")]
"""BERT is tested above; XLM-RoBERTa uses RoBERTa's code."""


@pytest.mark.slow
@pytest.mark.parametrize("family", SUPPORTED_FAMILIES)
def test_onnx_graph_matches_torch_in_every_family_but_deberta(family: str, tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone", family)
    source = save_and_load_mixture(tmp_path, family)
    assert write_onnx(tmp_path / "out", source, overwrite=False).difference < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / ONNX_FILE))
    names = read_json(tmp_path / "out" / SPEC_FILE)["outputs"]
    for shape in SHAPES:
        inputs = random_inputs(*shape)
        for name, output in zip(names, session.run(names, inputs), strict=True):
            np.testing.assert_allclose(output, run_torch(source, inputs)[name], atol=1e-4)


def test_graph_of_a_multi_label_task_has_sigmoids_and_its_specification_thresholds(tmp_path: Path) -> None:
    source = save_and_load_mixture(tmp_path, domains=topic_domain())
    thresholds = dict(zip(TOPICS, (0.2, 0.5, 0.7), strict=True))
    write_calibration(source.folder, {"news": TaskCalibration(temperature=1.5, rows=9, label_thresholds=thresholds)})
    out = tmp_path / "onnx"
    write_onnx(out, load_export_source(source.folder, ()), overwrite=False)
    tasks = read_json(out / SPEC_FILE)["tasks"]
    assert (tasks["news"]["kind"], tasks["news"]["thresholds"]) == ("multi_label", [0.2, 0.5, 0.7])
    assert not {"kind", "thresholds"} & tasks["forum"].keys()
    graph = onnx_model.load(str(out / ONNX_FILE)).graph
    makers = {name: node.op_type for node in graph.node for name in node.output}
    assert (makers["probabilities/news"], makers["probabilities/forum"]) == ("Sigmoid", "Softmax")
    predictor = load(resolve(source.folder), LoadOptions(runtime="torch"))
    (prediction,) = predict_texts(TEXTS[:1], predictor, "news")
    encoded = Tokenizer.from_file(str(out / TOKENIZER_FILE)).encode(TEXTS[0])
    feed = {"input_ids": [encoded.ids], "attention_mask": [encoded.attention_mask], "domain": [0]}
    session = onnxruntime.InferenceSession(str(out / ONNX_FILE))
    (probabilities,) = session.run(["probabilities/news"], {name: np.array(value) for name, value in feed.items()})
    np.testing.assert_allclose(probabilities[0], prediction.probabilities, atol=1e-4)
    chosen = {label for label, p in zip(TOPICS, probabilities[0], strict=True) if p >= thresholds[label]}
    assert set(filter(None, prediction.label.split(";"))) == chosen
