"""INT8 weights for a model's graph: dynamic quantization by onnxruntime, and what it changes on texts.

Only the backbone is quantized: its layers, with a scale for each output, and its word embeddings. Experts, router and
heads are small and keep fp32.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import onnx
from onnx import GraphProto, numpy_helper

from experts.errors import Fault
from moe.bootstrap import wilson_interval
from moe.export.onnx import ExportedGraph
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.graph.session import GraphSession
from moe.inference.graph.spec import BACKBONE
from moe.inference.predictor import Predictor
from moe.inference.rows import Row
from moe.inference.stream import predict_rows
from moe.inference.text_io import TextSource

LARGEST = 2**31 - 2**20
"""Bytes of weights that a single ONNX file can hold."""
MOST_TEXTS = 500
"""Number of texts, evenly spaced in the file, on which the graphs are compared."""
ROUNDS = 3
"""Number of times that each graph predicts the texts; the fastest counts."""


@dataclass(frozen=True)
class Int8Comparison:
    """An INT8 graph beside the fp32 one, on the same texts and with as many threads.

    Args:
        texts: number of texts.
        changed: share of them with another label, 0 to 1.
        changed_interval: its 95 % interval.
        texts_per_second: of the INT8 graph, tokenization included, on this machine.
        fp32_texts_per_second: of the fp32 graph.
    """

    texts: int
    changed: float
    changed_interval: tuple[float, float]
    texts_per_second: float
    fp32_texts_per_second: float

    @property
    def note(self) -> str:
        """The comparison in a sentence."""
        low, high = self.changed_interval
        return (
            f"INT8: another label for {self.changed:.1%} of {self.texts:,} texts (95 %: {low:.1%} to {high:.1%}); "
            f"{self.texts_per_second:,.0f} texts/s on this machine, the fp32 graph {self.fp32_texts_per_second:,.0f}"
        )


@dataclass(frozen=True)
class ExportedInt8Graph(ExportedGraph):
    """A graph that was written together with its INT8 graph."""

    int8: Int8Comparison


def quantize_graph(graph: Path, arrays: Mapping[str, np.ndarray], out: Path) -> None:
    """Write a copy of a graph that holds all of its weights, those of the backbone in INT8.

    Args:
        graph: the graph without weights.
        arrays: its weights by name.
        out: the file to write.

    Raises:
        Fault: if the weights are too large for one file.
    """
    if (size := sum(array.nbytes for array in arrays.values())) > LARGEST:
        remedy = "export without --int8"
        raise Fault("weights of at most 2.1 GB for an INT8 graph", f"{size / 1e9:.1f} GB", remedy)
    from onnxruntime.quantization import QuantType, quantize_dynamic  # slow to import

    model = onnx.load(str(graph), load_external_data=False)
    nodes = _add_weights(model.graph, arrays)
    with _silence_quantizer():
        quantize_dynamic(
            model,
            out,
            op_types_to_quantize=["MatMul", "Gather"],
            nodes_to_quantize=nodes,
            per_channel=True,
            reduce_range=True,  # 7 bits: sums of two 8-bit products overflow on x86 processors without VNNI
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )


def _add_weights(graph: GraphProto, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """Store a graph's weights in it, the backbone's matrices transposed; return the names of the nodes to quantize."""
    readers = {name: node for node in graph.node for name in node.input}
    transposed = [
        node
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0].startswith(f"{BACKBONE}/") and node.input[0] in arrays
    ]
    matrices, names = {node.input[0] for node in transposed}, []
    for node in transposed:
        product = readers[node.output[0]]
        product.input[1] = node.input[0]
        names.append(product.name)
        graph.node.remove(node)
    names += [n.name for n in graph.node if n.op_type == "Gather" and n.input[0].endswith("word_embeddings.weight")]
    stored = [tensor for tensor in graph.initializer if tensor.name not in arrays]
    added = [
        numpy_helper.from_array(np.ascontiguousarray(array.T) if name in matrices else np.array(array), name)
        for name, array in arrays.items()
    ]
    del graph.initializer[:]
    graph.initializer.extend([*stored, *added])
    return names


@contextmanager
def _silence_quantizer() -> Iterator[None]:
    """Suppress the quantizer's advice, which it logs as warnings of the root logger."""
    logger, before = logging.getLogger(), logging.getLogger().level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def read_check_rows(source: TextSource) -> list[Row]:
    """Return up to `MOST_TEXTS` rows of a file on which to compare graphs, evenly spaced.

    Raises:
        Fault: if it cannot be read or holds no text.
    """
    source.check(required=True)
    rows = [row for row in source.rows() if "error" not in row]
    if not rows:
        raise Fault(f"texts in {source.required_file} to compare the INT8 graph on", "none", "name another file")
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_TEXTS)).astype(int))]


def compare_int8(fp32: GraphSession, int8: GraphSession, rows: Sequence[Row]) -> Int8Comparison:
    """Compare the labels and the speed of two graphs of a model on the same rows.

    Raises:
        Fault: if no row can be predicted.
    """
    runs = [(_predict(OnnxPredictor(fp32), rows), _predict(OnnxPredictor(int8), rows)) for _ in range(ROUNDS)]
    seconds = [min(run[i].seconds for run in runs) for i in (0, 1)]
    pairs = [(a, b) for a, b in zip(*(its.rows for its in runs[0]), strict=True) if "error" not in (*a, *b)]
    if not pairs:
        problem = str(runs[0][0].rows[0].get("error"))
        raise Fault("texts that the model predicts", problem, "name another file with --file")
    changed = sum((a["task"], a["label"]) != (b["task"], b["label"]) for a, b in pairs)
    its = wilson_interval(changed, len(pairs))
    return Int8Comparison(
        texts=len(pairs),
        changed=its.value,
        changed_interval=(its.low, its.high),
        texts_per_second=len(rows) / seconds[1],
        fp32_texts_per_second=len(rows) / seconds[0],
    )


@dataclass(frozen=True)
class _TimedRows:
    """Predicted rows, and the seconds that they took."""

    rows: list[Row]
    seconds: float


def _predict(predictor: Predictor, rows: Sequence[Row]) -> _TimedRows:
    start = perf_counter()
    return _TimedRows(list(predict_rows(rows, predictor)), perf_counter() - start)
