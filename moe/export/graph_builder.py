"""Building of ONNX graphs node by node, with weights that stay in the files where they are."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from moe.inference.graph.spec import TensorPart, WeightSource

OPSET, IR_VERSION = 20, 9
EXTERNAL = "weights"
"""Name of the file that the graph gives for its weights; it does not exist, since every weight is handed over."""


class GraphBuilder:
    """Collects nodes, constants and weights; values are the names of tensors.

    Args:
        inputs: by name the ONNX data type and the shape of each input, with a name for a dynamic size.
    """

    def __init__(self, inputs: Mapping[str, tuple[int, Sequence[int | str]]]) -> None:
        self.inputs = [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in inputs.items()]
        self.weights: dict[str, WeightSource] = {}
        self.outputs: list[str] = []
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._tensors: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return the output's name."""
        return self.split(kind, *inputs, outputs=1, **attributes)[0]

    def split(self, kind: str, *inputs: str, outputs: int, **attributes: Any) -> list[str]:
        """Add a node with several outputs and return their names."""
        names = [f"{kind}_{len(self._nodes)}_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(kind, list(inputs), names, name=f"{kind}_{len(self._nodes)}", **attributes))
        return names

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        """Add a constant, once for each value, and return its name."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = f"constant_{len(self._constants)}"
            self._tensors.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def integers(self, *values: int) -> str:
        """Add a vector of integers, such as a shape or axes."""
        return self.constant(values, np.int64)

    def weight(
        self, name: str, shape: Sequence[int], *parts: TensorPart, axis: int = 0, transpose: bool = False
    ) -> str:
        """Add a float32 weight that is read from files when the graph is loaded, and return its name.

        Args:
            name: of the weight in the graph; adding it again has no effect.
            shape: in the graph.
            parts: tensors that are concatenated along `axis`.
            transpose: whether the matrix is transposed after that.
        """
        if name not in self.weights:
            self.weights[name] = WeightSource(shape=tuple(shape), parts=parts, axis=axis, transpose=transpose)
            tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value=EXTERNAL)
            self._tensors.append(tensor)
        return name

    def output(self, name: str, value: str) -> None:
        """Make a value an output under a name."""
        self._nodes.append(helper.make_node("Identity", [value], [name], name=f"output_{len(self.outputs)}"))
        self.outputs.append(name)

    def linear(self, x: str, weight: str, bias: str | None = None) -> str:
        """Multiply (…, D_in) by a weight (D_out, D_in), as torch stores it, and add a bias (D_out,)."""
        product = self.op("MatMul", x, self.op("Transpose", weight, perm=[1, 0]))
        return product if bias is None else self.op("Add", product, bias)

    def layer_norm(self, x: str, scale: str, bias: str | None, epsilon: float) -> str:
        """Normalize the last dimension."""
        return self.op("LayerNormalization", x, scale, *([bias] if bias else []), axis=-1, epsilon=epsilon)

    def to_bytes(self, ranks: Mapping[str, Sequence[int | str]]) -> bytes:
        """Return the model as bytes.

        Args:
            ranks: shape of each output by its name.
        """
        outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ranks[name]) for name in self.outputs]
        graph = helper.make_graph(self._nodes, "mixture", self.inputs, outputs, self._tensors)
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="finmoe")
        return bytes(model.SerializeToString(deterministic=True))
