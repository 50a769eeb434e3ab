"""The layers of a BERT-like backbone as nodes of a graph, with the gated updates of its experts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn
from transformers import PreTrainedModel

from experts.errors import Fault
from moe.export.expert_updates import UpdateWeights
from moe.export.graph_builder import GraphBuilder
from moe.inference.graph.spec import BACKBONE, TensorPart


@dataclass(frozen=True)
class LayerNames:
    """Names of the modules of a family's encoder; `{}` is replaced by the index of a layer."""

    layer: str
    query: str
    key: str
    value: str
    attention_output: str
    attention_norm: str
    feed_in: str
    feed_out: str
    output_norm: str


_BERT = LayerNames(
    layer="encoder.layer.{}.",
    query="attention.self.query",
    key="attention.self.key",
    value="attention.self.value",
    attention_output="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    feed_in="intermediate.dense",
    feed_out="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT = LayerNames(
    layer="transformer.layer.{}.",
    query="attention.q_lin",
    key="attention.k_lin",
    value="attention.v_lin",
    attention_output="attention.out_lin",
    attention_norm="sa_layer_norm",
    feed_in="ffn.lin1",
    feed_out="ffn.lin2",
    output_norm="output_layer_norm",
)
FAMILIES: Mapping[str, LayerNames] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "electra": _BERT,
    "distilbert": _DISTILBERT,
}
"""Families that can be written, by `model_type`."""
_POSITIONS_FROM_PADDING = ("roberta", "xlm-roberta")
_ACTIVATIONS = {"gelu": "none", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}
"""ONNX's attribute `approximate` of Gelu, by the name in a config."""


class EncoderGraph:
    """Writes a backbone's layers into a graph.

    Args:
        graph: gets the nodes.
        backbone: the loaded backbone, which gives config and shapes.
        keys: names of the tensors in the backbone's weight files.
        updates: the experts' updates.

    Raises:
        Fault: if its family is none of `FAMILIES`, or it has a part that cannot be written.
    """

    def __init__(
        self, graph: GraphBuilder, backbone: PreTrainedModel, keys: frozenset[str], updates: UpdateWeights
    ) -> None:
        self.graph, self.backbone, self.keys, self.updates = graph, backbone, keys, updates
        self.config = backbone.config
        self.family: str = self.config.model_type
        check_family(backbone)
        self.names = FAMILIES[self.family]
        self.width: int = self.config.hidden_size
        self.heads: int = self.config.num_attention_heads
        self.epsilon: float = getattr(self.config, "layer_norm_eps", 1e-12)

    def states(self, ids: str, mask: str, first: int = 0, known: str | None = None) -> Iterator[str]:
        """Yield the embeddings (B, T, D) of token ids (B, T), then the output of each layer.

        A layer is written when its output is requested, so that the gates can be set after the trunk.

        Args:
            ids: not read if the first layer's input is known.
            first: index of the first layer that is written.
            known: its input (B, T, D), which is yielded first; by default the embeddings.
        """
        states = self._embed(ids) if known is None else known  # (B, T, D)
        yield states
        bias = self._attention_bias(mask)  # (B, 1, 1, T)
        for index in range(first, self.config.num_hidden_layers):
            states = self._layer(self.names.layer.format(index), states, bias)
            yield states

    def _embed(self, ids: str) -> str:
        graph, config = self.graph, self.config
        states = graph.op("Gather", self._weight("embeddings.word_embeddings.weight"), ids)  # (B, T, D)
        table = self._weight("embeddings.position_embeddings.weight")  # (P, D)
        if self.family in _POSITIONS_FROM_PADDING:
            padding: int = config.pad_token_id
            real = graph.op("Not", graph.op("Equal", ids, graph.constant(padding, np.int64)))  # (B, T)
            real = graph.op("Cast", real, to=7)  # (B, T), int64
            count = graph.op("Mul", graph.op("CumSum", real, graph.constant(1, np.int64)), real)  # (B, T)
            positions = graph.op("Gather", table, graph.op("Add", count, graph.constant(padding, np.int64)))
        else:
            length = graph.op("Shape", ids, start=1, end=2)  # (1,)
            positions = graph.op("Slice", table, graph.integers(0), length, graph.integers(0))  # (T, D)
        states = graph.op("Add", states, positions)  # (B, T, D)
        if "embeddings.token_type_embeddings.weight" in self.backbone.state_dict():
            types = self._weight("embeddings.token_type_embeddings.weight")
            states = graph.op("Add", states, graph.op("Gather", types, graph.constant(0, np.int64)))  # (B, T, D)
        states = self._norm("embeddings.LayerNorm", states)
        if "embeddings_project.weight" in self.backbone.state_dict():
            states = self._base_linear("embeddings_project", states)
        return states

    def _attention_bias(self, mask: str) -> str:
        """Return 0 at real tokens and the lowest number at padding, (B, 1, 1, T)."""
        graph = self.graph
        padding = graph.op("Sub", graph.constant(1.0), graph.op("Cast", mask, to=1))  # (B, T)
        bias = graph.op("Mul", padding, graph.constant(np.finfo(np.float32).min))  # (B, T)
        return graph.op("Unsqueeze", bias, graph.integers(1, 2))

    def _layer(self, prefix: str, x: str, bias: str) -> str:
        names = self.names
        attended = self._attention(prefix, x, bias)
        (output,) = self._linears([prefix + names.attention_output], attended)
        x = self._norm(prefix + names.attention_norm, self.graph.op("Add", output, x))
        (inner,) = self._linears([prefix + names.feed_in], x)
        (output,) = self._linears([prefix + names.feed_out], self._activate(inner))
        return self._norm(prefix + names.output_norm, self.graph.op("Add", output, x))

    def _attention(self, prefix: str, x: str, bias: str) -> str:
        graph, names = self.graph, self.names
        size = self.width // self.heads
        query, key, value = self._linears([prefix + name for name in (names.query, names.key, names.value)], x)
        split = graph.integers(0, 0, self.heads, size)
        q, v = (graph.op("Transpose", graph.op("Reshape", y, split), perm=[0, 2, 1, 3]) for y in (query, value))
        k = graph.op("Transpose", graph.op("Reshape", key, split), perm=[0, 2, 3, 1])  # (B, H, D / H, T)
        scores = graph.op("Mul", graph.op("MatMul", q, k), graph.constant(size**-0.5))  # (B, H, T, T)
        weights = graph.op("Softmax", graph.op("Add", scores, bias), axis=-1)
        mixed = graph.op("Transpose", graph.op("MatMul", weights, v), perm=[0, 2, 1, 3])  # (B, T, H, D / H)
        return graph.op("Reshape", mixed, graph.integers(0, 0, self.width))  # (B, T, D)

    def _activate(self, x: str) -> str:
        name: str = getattr(self.config, "hidden_act", None) or self.config.activation
        if name == "relu":
            return self.graph.op("Relu", x)
        return self.graph.op("Gelu", x, approximate=_ACTIVATIONS[name])

    def _linears(self, paths: list[str], x: str) -> list[str]:
        """Return the outputs (B, T, D) of layers that read the same tensor, with the experts' updates."""
        inputs = self._parameter(f"{paths[0]}.weight").shape[1]
        products = self.updates.down(paths, x, inputs)
        outputs = []
        for path in paths:
            y = self._base_linear(path, x)
            if path in products:
                width = self._parameter(f"{path}.weight").shape[0]
                y = self.graph.op("Add", y, self.updates.up(path, products[path], width))
            outputs.append(y)
        return outputs

    def _base_linear(self, path: str, x: str) -> str:
        return self.graph.linear(x, self._weight(f"{path}.weight"), self._weight(f"{path}.bias"))

    def _norm(self, path: str, x: str) -> str:
        return self.graph.layer_norm(x, self._weight(f"{path}.weight"), self._weight(f"{path}.bias"), self.epsilon)

    def _parameter(self, name: str) -> nn.Parameter:
        path, _, kind = name.rpartition(".")
        module = self.backbone.get_submodule(path)
        parameter: nn.Parameter = getattr(getattr(module, "base", module), kind)
        return parameter

    def _weight(self, name: str) -> str:
        part = TensorPart(file=BACKBONE, tensor=find_key(self.keys, name))
        return self.graph.weight(f"{BACKBONE}/{name}", tuple(self._parameter(name).shape), part)


def check_family(backbone: PreTrainedModel) -> None:
    """Check that a backbone can be written node by node.

    Raises:
        Fault: if it cannot.
    """
    config = backbone.config
    family: str = config.model_type
    activation = getattr(config, "hidden_act", None) or getattr(config, "activation", None)
    problems = [
        family not in FAMILIES and f"the family {family}",
        activation not in (*_ACTIVATIONS, "relu") and f"the activation {activation}",
        getattr(config, "position_embedding_type", "absolute") != "absolute" and "relative positions",
        getattr(config, "is_decoder", False) and "a decoder",
    ]
    if reasons := [problem for problem in problems if problem]:
        raise Fault(
            f"an encoder of a family among {', '.join(FAMILIES)} with absolute positions and gelu or relu",
            str(reasons[0]),
            "predict with --runtime torch, or export it with --to onnx",
        )


def find_key(keys: frozenset[str], name: str) -> str:
    """Return the name of a tensor in weight files, which may have a prefix such as `bert.`, or TensorFlow's norm names.

    Raises:
        Fault: if there is none, or more than one.
    """
    old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
    matches = [key for key in keys if key in (name, old) or key.endswith((f".{name}", f".{old}"))]
    if len(matches) != 1:
        raise Fault(
            f"one tensor {name} in the backbone's weight files", f"{len(matches)}", "predict with --runtime torch"
        )
    return matches[0]
