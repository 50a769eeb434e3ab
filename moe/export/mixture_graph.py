"""A mixture of experts as a graph: backbone with gated updates, router, pooling and heads."""

from collections.abc import Mapping
from itertools import islice
from typing import Literal, cast

import numpy as np
from onnx import TensorProto
from torch import nn

from moe.export.encoder_graph import EncoderGraph
from moe.export.expert_updates import KeptUpdateWeights, UpdateWeights
from moe.export.graph_builder import GraphBuilder
from moe.export.router_graph import RouterGraph
from moe.inference.graph.spec import PartName, TensorPart
from moe.model.heads import Heads, MixedHeads
from moe.model.mixture import Mixture

AdapterFiles = Mapping[str, tuple[str, Mapping[str, str]]]
Part = PartName | Literal["complete"]
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64


class MixtureGraphBuilder:
    """Writes a loaded mixture, or a single expert, as a graph: complete, or as one of three parts.

    The complete graph has the inputs `input_ids` and `attention_mask` (B, T); with a router also `domain` (B,), an
    index into the model's domains that restricts a text to the domain's experts, −1 for none, `hard` (), whether each
    text goes to its most probable expert, and `prune` (), the threshold of `prune_gates`, 0 for none. Its outputs are
    `logits/HEAD` (B, K), `polarity` (B,) if the model has one, `routing_weights` (B, E), `states` (B, D), the pooled
    states, and `unfamiliar` (B,), 0 or 1, of a router with prototypes.

    The parts compute the same in two runs, so that batches can be made of texts that keep the same experts. The router
    has the complete graph's inputs, and the outputs `routing_weights`, `unfamiliar`, `gates` and `updates` (B, E), see
    `RouterValues`, and `trunk` (B, T, D), the trunk's states. The experts read `attention_mask`, `trunk`, `updates`,
    `kept` (E,) bool, the routed experts to compute, and, if the experts have heads of their own, `gates`. They hold no
    embeddings, of which onnxruntime would keep a copy. The folded part is the same without experts, for weights that
    contain one.

    Args:
        model: in evaluation mode.
        backbone_keys: names of the tensors in the backbone's weight files.
        adapters: by expert the file of its adapter and, by layer, the names of its matrices without `.lora_A.weight`.
        heads, router: files of the heads and of the router, from the model's folder.
        part: what is written.

    Raises:
        Fault: if the backbone cannot be written.
    """

    def __init__(
        self,
        model: Mixture,
        backbone_keys: frozenset[str],
        adapters: AdapterFiles,
        heads: str,
        router: str,
        part: Part = "complete",
    ) -> None:
        self.model, self.heads_file, self.router_file, self.part = model, heads, router, part
        self.routed = model.active_expert is None
        inputs = self._inputs()
        self.inputs = tuple(inputs)
        self.graph = GraphBuilder(inputs)
        active = (*model.bank.routed_experts, *model.bank.shared_experts)
        specs = {
            path: tuple((name, layer.lora_specs[name]) for name in active if name in layer.lora_specs)
            for path, layer in zip(model.bank.base_layers, model.bank.gated_layers, strict=True)
        }
        kind = KeptUpdateWeights if part == "experts" else UpdateWeights
        self.updates = kind(self.graph, {} if part == "folded" else specs, adapters)
        self.encoder = EncoderGraph(self.graph, model.backbone, backbone_keys, self.updates)

    def _inputs(self) -> dict[str, tuple[int, tuple[int | str, ...]]]:
        """Return the data type and the shape of each input."""
        inputs: dict[str, tuple[int, tuple[int | str, ...]]] = {
            "input_ids": (INT64, ("batch", "length")),
            "attention_mask": (INT64, ("batch", "length")),
        }
        if self.part in ("complete", "router"):
            routing = {"domain": (INT64, ("batch",)), "hard": (BOOL, ()), "prune": (FLOAT, ())}
            return inputs | (routing if self.routed else {})
        experts, width = len(self.model.bank.routed_experts), self.model.backbone.config.hidden_size
        inputs = {"attention_mask": inputs["attention_mask"], "trunk": (FLOAT, ("batch", "length", width))}
        inputs |= {"gates": (FLOAT, ("batch", experts))} if isinstance(self.model.heads, MixedHeads) else {}
        if self.part == "experts":
            inputs |= {"updates": (FLOAT, ("batch", experts)), "kept": (BOOL, (experts,))}
        return inputs

    def build(self) -> bytes:
        """Return the graph as bytes; `graph.weights` then names the source of every weight."""
        graph, depth = self.graph, self.model.bank.trunk_depth
        gates: str | None = "gates"  # (B, E)
        if self.part in ("complete", "router"):
            layers = self.encoder.states("input_ids", "attention_mask")
            states = list(islice(layers, depth + 1))[-1]  # (B, T, D)
            gates = self._route(states) if self.routed else None
        else:
            layers = self.encoder.states("", "attention_mask", first=depth, known="trunk")
            states = next(layers)
            self._pass_updates("updates")
        if self.part == "router":
            return graph.to_bytes(self._output_shapes())
        states = [states, *layers][-1]  # (B, T, D)
        pooled = self._pool(states)  # (B, D)
        logits, polarity = self._all_heads(pooled, gates)
        for name, value in logits.items():
            graph.output(f"logits/{name}", value)
        if polarity is not None:
            graph.output("polarity", polarity)
        if not self.routed:
            graph.output("routing_weights", self._constant_weights(pooled))
        graph.output("states", pooled)
        return graph.to_bytes(self._output_shapes())

    def _route(self, states: str) -> str:
        """Write the router on the trunk's states (B, T, D), pass its gates to the layers and return them (B, E)."""
        values = RouterGraph(self.graph, self.model, self.encoder.width, self.router_file).route(states)
        if self.part == "router":
            for name, value in (vars(values) | {"trunk": states}).items():
                self.graph.output(name, value)
        else:
            self._pass_updates(values.updates)
        return values.gates

    def _pass_updates(self, updates: str) -> None:
        """Let the layers compute the routed experts with these weights (B, E), and the shared ones with 1."""
        if self.part == "folded":
            return
        graph, experts = self.graph, (*self.model.bank.routed_experts, *self.model.bank.shared_experts)
        added = len(self.model.bank.shared_experts)
        self.updates.columns = {name: i for i, name in enumerate(experts)}
        self.updates.gates = graph.op("Pad", updates, graph.integers(0, 0, 0, added), graph.constant(1.0))  # (B, E + S)
        if isinstance(self.updates, KeptUpdateWeights):
            shared = graph.constant([True] * added, np.bool_)  # (S,)
            self.updates.kept = graph.op("Concat", "kept", shared, axis=0)  # (E + S,)

    def _output_shapes(self) -> dict[str, tuple[int | str, ...]]:
        shapes: dict[str, tuple[int | str, ...]] = {name: ("batch", f"{name}/size") for name in self.graph.outputs}
        return shapes | {"polarity": ("batch",), "unfamiliar": ("batch",), "trunk": ("batch", "length", "width")}

    def _constant_weights(self, pooled: str) -> str:
        """Return the routing weights (B, E) of a single expert: 1 for it, none for a shared one."""
        experts = len(self.model.bank.routed_experts)
        size = self.graph.op("Concat", self.graph.op("Shape", pooled, end=1), self.graph.integers(experts), axis=0)
        return self.graph.op("Expand", self.graph.constant(1.0), size)

    def _pool(self, states: str) -> str:
        """Return the pooled states (B, D) of (B, T, D)."""
        graph = self.graph
        if self.model.pooling == "last":
            length = graph.op("Shape", "attention_mask", start=1, end=2)
            limits = graph.constant(0, np.int64), graph.op("Squeeze", length, graph.integers(0))
            position = graph.op("Range", *limits, graph.constant(1, np.int64))  # (T,)
            last = graph.op("ArgMax", graph.op("Mul", "attention_mask", position), axis=1, keepdims=1)  # (B, 1)
            return graph.op("GatherND", states, last, batch_dims=1)  # (B, D)
        mask = graph.op("Unsqueeze", graph.op("Cast", "attention_mask", to=FLOAT), graph.integers(2))  # (B, T, 1)
        total = graph.op("ReduceSum", graph.op("Mul", states, mask), graph.integers(1), keepdims=0)  # (B, D)
        count = graph.op("ReduceSum", mask, graph.integers(1), keepdims=0)  # (B, 1)
        return graph.op("Div", total, graph.op("Max", count, graph.constant(1.0)))

    def _all_heads(self, pooled: str, gates: str | None) -> tuple[dict[str, str], str | None]:
        """Return logits (B, K) by head, and the polarity (B,) if there is one."""
        heads, graph = self.model.heads, self.graph
        if isinstance(heads, Heads):
            return self._heads(heads, "", pooled)
        assert isinstance(heads, MixedHeads)
        assert gates is not None
        experts = cast(Mapping[str, Heads], heads.experts)
        outputs = [self._heads(head, f"experts.{name}.", pooled) for name, head in experts.items()]
        columns = graph.split("Split", gates, outputs=len(outputs), axis=1, num_outputs=len(outputs))  # (B, 1) each
        logits = {
            name: self._sum([graph.op("Mul", own[name], gate) for (own, _), gate in zip(outputs, columns, strict=True)])
            for name in outputs[0][0]
        }
        if outputs[0][1] is None:
            return logits, None
        squeezed = [graph.op("Squeeze", column, graph.integers(1)) for column in columns]  # (B,) each
        parts = [graph.op("Mul", str(output[1]), column) for output, column in zip(outputs, squeezed, strict=True)]
        return logits, self._sum(parts)

    def _sum(self, values: list[str]) -> str:
        return values[0] if len(values) == 1 else self.graph.op("Sum", *values)

    def _heads(self, heads: Heads, prefix: str, pooled: str) -> tuple[dict[str, str], str | None]:
        graph = self.graph
        logits = {}
        for key, head in cast(Mapping[str, nn.Sequential], heads.classes).items():
            x, last = pooled, len(head) - 1
            if last > 1:
                x = graph.op("Tanh", self._head_linear(heads, prefix, f"classes.{key}.1", x))
            logits[heads.names[key]] = self._head_linear(heads, prefix, f"classes.{key}.{last}", x)
        if heads.polarity is None:
            return logits, None
        if len(heads.polarity) == 2:
            raw = self._head_linear(heads, prefix, "polarity.1", pooled)  # (B, 1)
        else:
            hidden = graph.op("Sigmoid", self._head_linear(heads, prefix, "polarity.0", pooled))
            raw = self._head_linear(heads, prefix, "polarity.2", hidden)  # (B, 1)
        raw = graph.op("Squeeze", raw, graph.integers(1))  # (B,)
        if heads.bound == "clip":
            raw = graph.op("Clip", raw, graph.constant(-1.0), graph.constant(1.0))
        return logits, graph.op("Tanh", raw) if heads.bound == "tanh" else raw

    def _head_linear(self, heads: Heads, prefix: str, path: str, x: str) -> str:
        names = [name for name in (f"{path}.weight", f"{path}.bias") if name in heads.state_dict()]
        return self.graph.linear(x, *(self._head_weight(heads, prefix, name) for name in names))

    def _head_weight(self, heads: Heads, prefix: str, name: str) -> str:
        """Add a weight of the heads."""
        part = TensorPart(file=self.heads_file, tensor=f"{prefix}{name}")
        return self.graph.weight(f"heads/{prefix}{name}", tuple(heads.state_dict()[name].shape), part)
