"""Claims about graphs: onnxruntime and OpenVINO compute what torch does, for any number of texts and tokens."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from conftest import FAMILIES, save_backbone
from exports import opened
from mixtures import TEXTS
from tokenizers import Tokenizer

from experts.atomic_io import read_json
from experts.errors import Fault
from moe.export import onnx as graph
from moe.export.inference_spec import SPEC_FILE, build_inference_spec
from moe.export.onnx import ONNX_FILE, OPENVINO_FILE, TOKENIZER_FILE, MixtureGraph, check_graph_support, load_openvino_model, convert_to_openvino, write_onnx, write_openvino
from moe.export.selection import ExportSource, load_export_source
from moe.inference.calibration import TaskCalibration, write_calibration
from moe.inference.loading import ModelLoader
from moe.inference.stream import predict_texts

SIZES = ((1, 1), (1, 9), (4, 5), (3, 16))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A calibrated mixture with a trunk, a shared expert and heads of the experts' own."""
    made = opened(tmp_path_factory.mktemp("graph"), shared=True)
    tasks = {name: TaskCalibration(temperature=heat, rows=9) for name, heat in (("news", 1.7), ("forum", 0.6))}
    write_calibration(made.folder, tasks)
    return load_export_source(made.folder, ())


@pytest.fixture(scope="module")
def exported(source: ExportSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its graph."""
    out = tmp_path_factory.mktemp("out") / "onnx"
    found = write_onnx(out, source, overwrite=False)
    assert found["inputs"] == ["input_ids", "attention_mask", "domain"]
    assert found["outputs"] == ["probabilities/news", "probabilities/forum", "polarity", "shares"]
    assert found["difference"] < 1e-4
    return out


def texts(rows: int, length: int) -> dict[str, np.ndarray]:
    """Ids with padding in the first row, and domains pinned and not."""
    torch.manual_seed(rows * length)
    ids, mask = torch.randint(4, 30, (rows, length)), torch.ones(rows, length, dtype=torch.long)
    if length > 1:
        mask[0, -1] = ids[0, -1] = 0
    domain = torch.arange(rows) % 3 - 1
    return {"input_ids": ids.numpy(), "attention_mask": mask.numpy(), "domain": domain.numpy()}


def by_torch(source: ExportSource, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = MixtureGraph(source.model, build_inference_spec(source))(*map(torch.from_numpy, given.values()))
    return {name: one.numpy() for name, one in out.items()}


@pytest.mark.parametrize(("rows", "length"), SIZES)
def test_onnxruntime_computes_what_torch_does_at_any_size(
    source: ExportSource, exported: Path, rows: int, length: int
) -> None:
    given = texts(rows, length)
    session = onnxruntime.InferenceSession(str(exported / ONNX_FILE))
    names = read_json(exported / SPEC_FILE)["outputs"]
    for name, ours in zip(names, session.run(names, given), strict=True):
        np.testing.assert_allclose(ours, by_torch(source, given)[name], atol=1e-4)


@pytest.mark.slow
def test_openvino_does_too(source: ExportSource, exported: Path, tmp_path: Path) -> None:
    convert_to_openvino(exported / ONNX_FILE, tmp_path / OPENVINO_FILE)
    model = load_openvino_model(tmp_path / OPENVINO_FILE)
    for size in SIZES:
        given = texts(*size)
        theirs = model(list(given.values()))
        for name, ours in by_torch(source, given).items():
            np.testing.assert_allclose(theirs[name], ours, atol=1e-4)


def test_tokenizer_and_graph_alone_answer_as_moe_infer_does(source: ExportSource, exported: Path) -> None:
    reading = read_json(exported / SPEC_FILE)
    tokenizer = Tokenizer.from_file(str(exported / TOKENIZER_FILE))
    long = " ".join(["profit rose again"] * 20)
    some = [*TEXTS, long]
    encoded = tokenizer.encode_batch([reading["template"].replace("{text}", text) for text in some])
    ids = np.array([one.ids for one in encoded])
    given = {"input_ids": ids, "attention_mask": np.array([one.attention_mask for one in encoded])}
    session = onnxruntime.InferenceSession(str(exported / ONNX_FILE))
    for domain, number in ((None, -1), ("forum", 1)):
        out = session.run(reading["outputs"], given | {"domain": np.full(len(some), number)})
        theirs = dict(zip(reading["outputs"], out, strict=True))
        answers = predict_texts(some, ModelLoader(source.folder).load(), domain, "forum")
        for i, one in enumerate(answers):
            np.testing.assert_allclose(theirs["probabilities/forum"][i], one.probabilities, atol=1e-4)
            np.testing.assert_allclose(theirs["shares"][i], one.routing_weights, atol=1e-4)
            assert theirs["polarity"][i] == pytest.approx(one.polarity, abs=1e-4)
    assert reading["tasks"]["forum"]["temperature"] == 0.6


def test_the_page_s_code_answers_without_torch_as_moe_infer_does(
    source: ExportSource, exported: Path, tmp_path: Path
) -> None:
    (code,) = [body for body in python_of(PAGE) if "onnxruntime" in body]
    (tmp_path / "runs" / "demo" / "export").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "export" / "onnx").symlink_to(exported)
    guard = "\nimport sys\nassert not {'torch', 'transformers', 'moe'} & set(sys.modules)\n"
    ran = subprocess.run(
        [sys.executable, "-c", code + guard], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    some = ["Profit fell less than feared.", "to the moon, said my broke cousin"]
    answers = predict_texts(some, ModelLoader(source.folder).load())
    for line, one in zip(ran.stdout.splitlines(), answers, strict=True):
        assert line.startswith(f"{one.label} {one.confidence:.3g}"[:-1])


PAGE = Path(__file__).parents[3] / "docs" / "export.md"


def python_of(page: Path) -> list[str]:
    """The Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def test_what_cannot_become_a_graph_is_refused_by_name(
    source: ExportSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Fault, match="position biases"):
        check_graph_support(opened(tmp_path, "deberta-v2"))
    monkeypatch.setattr(graph, "MODULES", ("nothing_of_this_name",))
    with pytest.raises(Fault, match=r"pip install 'finmoe\[export\]'"):
        write_onnx(tmp_path / "out", source, overwrite=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_whole_folder_of_openvino_and_one_expert_alone(source: ExportSource, tmp_path: Path) -> None:
    out = tmp_path / "openvino"
    write_openvino(out, source, overwrite=False)
    assert {"openvino_model.xml", "openvino_model.bin", TOKENIZER_FILE, SPEC_FILE} <= {one.name for one in out.iterdir()}
    assert not (out / ONNX_FILE).exists()


GRAPHS = [family for family in FAMILIES if family not in ("bert", "deberta-v2", "xlm-roberta")]
"""BERT is above; XLM-RoBERTa runs RoBERTa's code."""


@pytest.mark.slow
@pytest.mark.parametrize("family", GRAPHS)
def test_it_holds_in_every_family_but_deberta(family: str, tmp_path: Path) -> None:
    save_backbone(tmp_path / "backbone", family)
    made = opened(tmp_path, family)
    assert write_onnx(tmp_path / "out", made, overwrite=False)["difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / ONNX_FILE))
    names = read_json(tmp_path / "out" / SPEC_FILE)["outputs"]
    for size in SIZES:
        given = texts(*size)
        for name, ours in zip(names, session.run(names, given), strict=True):
            np.testing.assert_allclose(ours, by_torch(made, given)[name], atol=1e-4)
