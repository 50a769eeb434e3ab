"""Claims about INT8 graphs: only the backbone is quantized, and the labels that change are counted."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from exports import save_and_load_mixture
from mixtures import TEXTS

from experts.atomic_io import read_json, write_text
from experts.errors import Fault
from moe.export.export import ExportRequest, export
from moe.export.graph import copy_graph, write_graph
from moe.export.int8 import LARGEST, ExportedInt8Graph, Int8Comparison, quantize_graph
from moe.inference.graph.session import check_graph
from moe.inference.graph.spec import GRAPH_FILE, GRAPH_FOLDER, INT8_FILE, SPEC_FILE
from moe.inference.load import LoadOptions, load
from moe.inference.stream import predict_texts
from moe.inference.text_io import TextSource
from moe.integrity import verify
from moe.runs.model_ref import resolve


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture with a shared expert and a head per expert."""
    return save_and_load_mixture(tmp_path_factory.mktemp("int8"), shared=True).folder


@pytest.fixture(scope="module")
def exported(folder: Path) -> ExportedInt8Graph:
    """Its graphs, compared on three texts; the last row has none."""
    write_text(folder.parent / "texts.csv", "text\n" + "\n".join(TEXTS) + "\n \n")
    texts = TextSource(file=folder.parent / "texts.csv")
    report = export(ExportRequest(folder, "graph", int8=True, texts=texts))
    assert INT8_FILE in report.files
    assert isinstance(report.exported, ExportedInt8Graph)
    return report.exported


def test_backbone_is_quantized_and_experts_router_and_heads_are_not(folder: Path, exported: ExportedInt8Graph) -> None:
    graph = onnx.load(str(folder / GRAPH_FOLDER / INT8_FILE)).graph
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    sources = check_graph(folder).weights
    matrices = [name for name, its in sources.items() if name.startswith("backbone/encoder") and len(its.shape) == 2]
    assert len(matrices) >= 6
    for name in matrices:
        assert types[f"{name}_quantized"] == onnx.TensorProto.INT8
    assert types["backbone/embeddings.word_embeddings.weight_quantized"] == onnx.TensorProto.UINT8
    assert not types.keys() & {*matrices, "backbone/embeddings.word_embeddings.weight"}
    others = [name for name in sources if not name.startswith("backbone/")]
    assert {name.partition("/")[0] for name in others} == {"experts", "router", "heads"}
    assert {types[name] for name in others} == {onnx.TensorProto.FLOAT}
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("MatMulInteger") == len(matrices)


def test_int8_graph_predicts_close_to_the_fp32_one_soft_hard_and_in_a_domain(
    folder: Path, exported: ExportedInt8Graph
) -> None:
    for routing, domain in (("soft", None), ("hard", None), ("soft", "forum")):
        fp32, int8 = (
            predict_texts(TEXTS, load(resolve(folder), LoadOptions(routing=routing, runtime=runtime)), domain)
            for runtime in ("onnx", "int8")
        )
        for a, b in zip(fp32, int8, strict=True):
            assert a.probabilities == pytest.approx(b.probabilities, abs=0.05)
            assert a.routing_weights == pytest.approx(b.routing_weights, abs=0.05)
        assert any(not np.array_equal(a.probabilities, b.probabilities) for a, b in zip(fp32, int8, strict=True))


def test_comparison_counts_the_labels_that_change(folder: Path, exported: ExportedInt8Graph) -> None:
    fp32, int8 = (predict_texts(TEXTS, load(resolve(folder), LoadOptions(runtime=r))) for r in ("onnx", "int8"))
    changed = sum((a.task, a.label) != (b.task, b.label) for a, b in zip(fp32, int8, strict=True))
    assert (exported.int8.texts, exported.int8.changed) == (3, changed / 3)
    low, high = exported.int8.changed_interval
    assert 0 <= low <= exported.int8.changed <= high < 1
    assert exported.int8.texts_per_second > 0
    example = Int8Comparison(500, 0.032, (0.02, 0.051), 352.6, 183.4)
    assert example.note.startswith("INT8: another label for 3.2% of 500 texts (95 %: 2.0% to 5.1%); 353 texts/s")
    assert example.note.endswith("the fp32 graph 183")


def test_int8_graph_is_listed_checked_and_not_copied(folder: Path, exported: ExportedInt8Graph, tmp_path: Path) -> None:
    (checked,) = verify(folder).folders
    assert not checked.faults
    assert not [remark for remark in checked.remarks if INT8_FILE in remark]
    target = save_and_load_mixture(tmp_path).folder
    copy_graph(folder, target)
    assert not (target / GRAPH_FOLDER / INT8_FILE).exists()
    assert "int8_sha256" not in read_json(target / GRAPH_FOLDER / SPEC_FILE)
    path = folder / GRAPH_FOLDER / INT8_FILE
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert any(INT8_FILE in remark for remark in verify(folder).folders[0].remarks)
    with pytest.raises(Fault, match=r"model_int8\.onnx"):
        load(resolve(folder), LoadOptions(runtime="int8"))
    path.write_bytes(content)


def test_model_without_an_int8_graph_is_refused_with_the_command_to_run(tmp_path: Path) -> None:
    folder = save_and_load_mixture(tmp_path).folder
    write_graph(folder)
    assert "int8_sha256" not in read_json(folder / GRAPH_FOLDER / SPEC_FILE)
    with pytest.raises(Fault, match=r"an INT8 graph at .*; found none\. Write it: moe export .* --int8 --file TEXTS"):
        load(resolve(folder), LoadOptions(runtime="int8"))
    large = {"weight": np.broadcast_to(np.zeros(1, np.uint8), (LARGEST + 1,))}
    with pytest.raises(Fault, match=r"at most 2\.1 GB for an INT8 graph; found 2\.1 GB"):
        quantize_graph(folder / GRAPH_FOLDER / GRAPH_FILE, large, tmp_path / INT8_FILE)


@pytest.mark.parametrize(
    ("to", "int8", "file", "message"),
    [
        ("graph", True, None, "--int8 together with --file.*found --int8 alone"),
        ("graph", False, "texts.csv", "found --file alone"),
        ("onnx", True, "texts.csv", "--int8 only with --to graph"),
        ("graph", True, "missing.csv", r"missing\.csv"),
        ("graph", True, "blank.csv", "to compare the INT8 graph on; found none"),
    ],
)
def test_int8_options_that_do_not_fit_are_refused_before_anything_is_written(
    to: str, int8: bool, file: str | None, message: str, folder: Path, tmp_path: Path
) -> None:
    write_text(tmp_path / "texts.csv", "text\nrates\n")
    write_text(tmp_path / "blank.csv", "text\n \n")
    texts = TextSource(file=None if file is None else tmp_path / file)
    with pytest.raises(Fault, match=message):
        export(ExportRequest(folder, to, out=None, int8=int8, texts=texts))
