"""A mixture of experts as a graph: backbone with gated updates, router, pooling and heads."""

from collections.abc import Mapping
from typing import cast

import numpy as np
from onnx import TensorProto
from torch import nn

from moe.export.encoder_graph import EncoderGraph, UpdateWeights
from moe.export.graph_builder import GraphBuilder
from moe.inference.graph.spec import TensorPart
from moe.model.heads import Heads, LabelAttention, MixedHeads
from moe.model.mixture import Mixture
from router.gate import Gate

AdapterFiles = Mapping[str, tuple[str, Mapping[str, str]]]
BOOL, FLOAT, INT64 = TensorProto.BOOL, TensorProto.FLOAT, TensorProto.INT64


class MixtureGraphBuilder:
    """Writes a loaded mixture, or a single expert, as a graph.

    Inputs: `input_ids` and `attention_mask` (B, T); with a router also `domain` (B,), an index into the model's domains
    that restricts a text to the domain's experts, −1 for none, and `hard` (), whether each text goes to its most
    probable expert. Outputs: `logits/HEAD` (B, K), `polarity` (B,) if the model has one, `routing_weights` (B, E),
    `states` (B, D), the pooled states, and `unfamiliar` (B,), 0 or 1, of a router with prototypes.

    Args:
        model: in evaluation mode.
        backbone_keys: names of the tensors in the backbone's weight files.
        adapters: by expert the file of its adapter and, by layer, the names of its matrices without `.lora_A.weight`.
        heads, router: files of the heads and of the router, from the model's folder.

    Raises:
        Fault: if the backbone cannot be written.
    """

    def __init__(
        self, model: Mixture, backbone_keys: frozenset[str], adapters: AdapterFiles, heads: str, router: str
    ) -> None:
        self.model, self.heads_file, self.router_file = model, heads, router
        inputs: dict[str, tuple[int, tuple[int | str, ...]]] = {
            "input_ids": (INT64, ("batch", "length")),
            "attention_mask": (INT64, ("batch", "length")),
        }
        self.routed = model.active_expert is None
        if self.routed:
            inputs |= {"domain": (INT64, ("batch",)), "hard": (BOOL, ())}
        self.inputs = tuple(inputs)
        self.graph = GraphBuilder(inputs)
        active = (*model.bank.routed_experts, *model.bank.shared_experts)
        specs = {
            path: tuple((name, layer.lora_specs[name]) for name in active if name in layer.lora_specs)
            for path, layer in zip(model.bank.base_layers, model.bank.gated_layers, strict=True)
        }
        self.updates = UpdateWeights(self.graph, specs, adapters)
        self.encoder = EncoderGraph(self.graph, model.backbone, backbone_keys, self.updates)

    def build(self) -> bytes:
        """Return the graph as bytes; `graph.weights` then names the source of every weight."""
        graph, model = self.graph, self.model
        gates: str | None = None  # (B, E)
        states = ""
        for depth, states in enumerate(self.encoder.states("input_ids", "attention_mask")):
            if depth == model.bank.trunk_depth and self.routed:
                gates = self._route(states)
        self.states, pooled = states, self._pool(states)  # (B, T, D), (B, D)
        logits, polarity = self._all_heads(pooled, gates)
        for name, value in logits.items():
            graph.output(f"logits/{name}", value)
        if polarity is not None:
            graph.output("polarity", polarity)
        if not self.routed:
            graph.output("routing_weights", self._constant_weights(pooled))
        graph.output("states", pooled)
        return graph.to_bytes(self._output_shapes())

    def _output_shapes(self) -> dict[str, tuple[int | str, ...]]:
        shapes: dict[str, tuple[int | str, ...]] = {name: ("batch", f"{name}/size") for name in self.graph.outputs}
        return shapes | {"polarity": ("batch",), "unfamiliar": ("batch",)}

    def _constant_weights(self, pooled: str) -> str:
        """Return the routing weights (B, E) of a single expert: 1 for it, none for a shared one."""
        experts = len(self.model.bank.routed_experts)
        size = self.graph.op("Concat", self.graph.op("Shape", pooled, end=1), self.graph.integers(experts), axis=0)
        return self.graph.op("Expand", self.graph.constant(1.0), size)

    def _route(self, states: str) -> str:
        """Write the router on the trunk's states (B, T, D), pass its gates to the layers and return them (B, E)."""
        gate, graph = self.model.gate, self.graph
        assert gate is not None
        logits, unfamiliar = self._router_logits(gate, states)  # (B, G + E), (B,)
        gates, probs = self._gates(gate, logits)  # (B, E) each
        graph.output("routing_weights", probs)
        allowed = self._allowed()  # (B, E)
        probs = self._renormalize(probs, allowed, graph.op("Cast", allowed, to=FLOAT))
        gates = self._renormalize(gates, allowed, probs)
        soft = gates if unfamiliar is None else self._muted(gates, unfamiliar, allowed)  # (B, E)
        hard = self._argmax_mask(probs, gate.num_experts)  # (B, E)
        updates = graph.op("Where", "hard", hard, soft)  # (B, E), by which the experts are computed
        gates = updates if unfamiliar is None else graph.op("Where", "hard", hard, gates)  # (B, E), of the heads
        experts = (*self.model.bank.routed_experts, *self.model.bank.shared_experts)
        added = len(experts) - gate.num_experts
        self.updates.columns = {name: i for i, name in enumerate(experts)}
        self.updates.gates = graph.op("Pad", updates, graph.integers(0, 0, 0, added), graph.constant(1.0))  # (B, E + S)
        return gates

    def _muted(self, gates: str, unfamiliar: str, allowed: str) -> str:
        """Set the gates (B, E) of unfamiliar texts (B,) to 0 if a shared expert answers them; see `mute_gates`."""
        graph = self.graph
        if not self.model.bank.shared_experts:
            return gates
        unrestricted = graph.op("ReduceMin", graph.op("Cast", allowed, to=FLOAT), graph.integers(1), keepdims=1)
        marked = graph.op("Unsqueeze", unfamiliar, graph.integers(1))  # (B, 1)
        factor = graph.op("Sub", graph.constant(1.0), graph.op("Mul", marked, unrestricted))  # (B, 1)
        return graph.op("Mul", gates, factor)

    def _router_logits(self, gate: Gate, states: str) -> tuple[str, str | None]:
        """Return group and expert logits (B, G + E) of trunk states (B, T, D), and which texts are unfamiliar (B,)."""
        graph, width = self.graph, self.encoder.width
        content = self._content()  # (B, T, 1)
        masked = graph.op("Where", content, states, graph.constant(0.0))  # (B, T, D)
        normalized = graph.layer_norm(masked, graph.constant(np.ones(width)), None, 1e-5)  # (B, T, D)
        axis = graph.integers(1)
        count = graph.op("ReduceSum", graph.op("Cast", content, to=FLOAT), axis, keepdims=0)  # (B, 1)
        total = graph.op("ReduceSum", normalized, axis, keepdims=0)  # (B, D)
        count = graph.op("Max", count, graph.constant(1.0))
        mean = summary = graph.op("Div", total, count)  # (B, D)
        queries = gate.settings.queries
        if queries:
            attend = self._weight("attend.weight", (queries, width))
            scores = graph.linear(normalized, attend, None)  # (B, T, Q)
            scores = graph.op("Where", content, scores, graph.constant(np.finfo(np.float32).min))  # (B, T, Q)
            weights = graph.op("Transpose", graph.op("Softmax", scores, axis=1), perm=[0, 2, 1])  # (B, Q, T)
            attended = graph.op("Flatten", graph.op("MatMul", weights, normalized), axis=1)  # (B, Q · D)
            summary = graph.op("Concat", summary, attended, axis=1)  # (B, (1 + Q) · D)
        logits = self._network(summary, width * (1 + queries), gate)
        if gate.prior is None:
            return logits, None
        weight = self._weight("prior.weight", (gate.num_experts, width))
        bias = self._weight("prior.bias", (gate.num_experts,))
        if gate.prior.kind == "arrow":
            response = graph.op("Abs", graph.linear(normalized, weight, None))  # (B, T, E)
            response = graph.op("Div", graph.op("ReduceSum", response, axis, keepdims=0), count)  # (B, E)
            prior = graph.op("Add", response, bias)
        else:
            prior = graph.linear(mean, weight, bias)
        logits = graph.op("Add", logits, graph.op("Concat", self._by_group(prior, gate), prior, axis=1))
        return logits, None if gate.prior.prototypes is None else self._unfamiliar(mean, gate, width)

    def _by_group(self, prior: str, gate: Gate) -> str:
        """Return the log-sum of the prior's scores (B, E) over the experts of each group, (B, G)."""
        graph = self.graph
        if gate.num_groups == gate.num_experts:
            return prior
        members = graph.constant(gate._group_mask().cpu().numpy()[None], np.bool_)  # (1, G, E)
        expanded = graph.op("Unsqueeze", prior, graph.integers(1))  # (B, 1, E)
        masked = graph.op("Where", members, expanded, graph.constant(np.finfo(np.float32).min))  # (B, G, E)
        largest = graph.op("ReduceMax", masked, graph.integers(2), keepdims=1)  # (B, G, 1)
        exponentials = graph.op("Exp", graph.op("Sub", masked, largest))  # (B, G, E)
        total = graph.op("ReduceSum", exponentials, graph.integers(2), keepdims=0)  # (B, G)
        return graph.op("Add", graph.op("Log", total), graph.op("Squeeze", largest, graph.integers(2)))

    def _unfamiliar(self, mean: str, gate: Gate, width: int) -> str:
        """Return which texts are far from every prototype, (B,) 0 or 1; see `PrototypeSet.distance`."""
        graph, axis, shape = self.graph, self.graph.integers(1), (gate.num_experts, width)

        def scores(name: str) -> str:
            weight = self._weight(f"prior.prototypes.{name}weight", shape)
            return graph.linear(mean, weight, self._weight(f"prior.prototypes.{name}bias", shape[:1]))  # (B, E)

        spread = scores("spread_")  # (B, E)
        squared = graph.op("ReduceSum", graph.op("Mul", spread, spread), axis, keepdims=0)  # (B,)
        nearest = graph.op("ReduceMax", scores(""), axis, keepdims=0)  # (B,)
        distance = graph.op("Sub", squared, graph.op("Mul", nearest, graph.constant(2.0)))  # (B,)
        is_far = graph.op("Greater", distance, self._weight("prior.prototypes.threshold", ()))  # (B,)
        unfamiliar = graph.op("Cast", is_far, to=FLOAT)
        graph.output("unfamiliar", unfamiliar)
        return unfamiliar

    def _network(self, x: str, width: int, gate: Gate) -> str:
        graph, hidden, outputs = self.graph, gate.settings.hidden, gate.num_groups + gate.num_experts
        if hidden == 0:
            return self._router_linear("net.0", x, width, outputs)
        x = self._router_linear("net.0", x, width, hidden)
        scale, bias = self._weight("net.1.weight", (hidden,)), self._weight("net.1.bias", (hidden,))
        x = graph.op("Relu", graph.layer_norm(x, scale, bias, 1e-5))
        return self._router_linear("net.4", x, hidden, outputs)

    def _router_linear(self, path: str, x: str, inputs: int, outputs: int) -> str:
        weight = self._weight(f"{path}.weight", (outputs, inputs))
        return self.graph.linear(x, weight, self._weight(f"{path}.bias", (outputs,)))

    def _content(self) -> str:
        """Return (B, T, 1) bool: tokens that the router reads; see `Mixture.content_mask`."""
        graph = self.graph
        real = graph.op("Cast", "attention_mask", to=BOOL)  # (B, T)
        special = graph.constant(self.model.special_token_ids.tolist(), np.int64)  # (S,)
        ids = graph.op("Unsqueeze", "input_ids", graph.integers(2))  # (B, T, 1)
        matches = graph.op("Cast", graph.op("Equal", ids, special), to=FLOAT)  # (B, T, S)
        is_special = graph.op("Cast", graph.op("ReduceMax", matches, graph.integers(2), keepdims=0), to=BOOL)  # (B, T)
        content = graph.op("And", real, graph.op("Not", is_special))  # (B, T)
        count = graph.op("ReduceMax", graph.op("Cast", content, to=FLOAT), graph.integers(1), keepdims=1)  # (B, 1)
        fallback = graph.op("And", real, graph.op("Not", graph.op("Cast", count, to=BOOL)))  # (B, T)
        return graph.op("Unsqueeze", graph.op("Or", content, fallback), graph.integers(2))  # (B, T, 1)

    def _gates(self, gate: Gate, logits: str) -> tuple[str, str]:
        """Return gates and soft probabilities (B, E) of logits (B, G + E); see `Gate.compute_gates`."""
        graph, groups, experts = self.graph, gate.num_groups, gate.num_experts
        if gate.settings.kind == "fixed":
            weights = graph.constant(gate.fixed_weights.cpu().numpy()[None])  # (1, E)
            size = graph.op("Concat", graph.op("Shape", logits, end=1), graph.integers(experts), axis=0)
            probs = graph.op("Expand", weights, size)  # (B, E)
            return probs, probs
        temperature = graph.op("Exp", self._weight("log_temperature", ()))
        temperature = graph.op("Max", temperature, graph.constant(gate.settings.min_temperature))
        scaled = graph.op("Div", logits, temperature)  # (B, G + E)
        by_group, by_expert = graph.split("Split", scaled, graph.integers(groups, experts), outputs=2, axis=1)
        group_probs = graph.op("Softmax", by_group, axis=-1)  # (B, G)
        group = graph.integers(*gate.group.tolist())  # (E,)
        members = graph.constant(gate._group_mask().cpu().numpy()[None], np.bool_)  # (1, G, E)
        expanded = graph.op("Unsqueeze", by_expert, graph.integers(1))  # (B, 1, E)
        lowest = graph.constant(-np.inf)
        softmax = graph.op("Softmax", graph.op("Where", members, expanded, lowest), axis=-1)  # (B, G, E)
        within = graph.op("ReduceSum", softmax, graph.integers(1), keepdims=0)  # (B, E)
        probs = graph.op("Mul", graph.op("Gather", group_probs, group, axis=1), within)  # (B, E)
        candidates = graph.op("Where", members, graph.op("Unsqueeze", within, graph.integers(1)), graph.constant(-1.0))
        top = graph.op("ReduceSum", self._argmax_mask(candidates, experts), graph.integers(1), keepdims=0)  # (B, E)
        active = self._top_groups(group_probs, gate.settings.top_k, groups)  # (B, G)
        return graph.op("Mul", graph.op("Gather", active, group, axis=1), top), probs

    def _top_groups(self, probs: str, k: int | None, groups: int) -> str:
        """Return the k largest probabilities (B, G) rescaled to sum 1, and 0 for the others."""
        if k is None or k >= groups:
            return probs
        graph = self.graph
        _, indices = graph.split("TopK", probs, graph.integers(k), outputs=2, axis=-1)  # (B, k)
        hits = graph.op("OneHot", indices, graph.constant(groups, np.int64), graph.constant([0.0, 1.0]), axis=-1)
        top = graph.op("Mul", probs, graph.op("ReduceSum", hits, graph.integers(1), keepdims=0))  # (B, G)
        return graph.op("Div", top, graph.op("ReduceSum", top, graph.integers(1), keepdims=1))

    def _argmax_mask(self, scores: str, size: int) -> str:
        """Return 1 at the largest entry of the last dimension and 0 elsewhere."""
        best = self.graph.op("ArgMax", scores, axis=-1, keepdims=0)
        depth, values = self.graph.constant(size, np.int64), self.graph.constant([0.0, 1.0])
        return self.graph.op("OneHot", best, depth, values, axis=-1)

    def _allowed(self) -> str:
        """Return (B, E) bool: the experts of each text's domain, or all of them."""
        graph = self.graph
        table = self.model.domain_expert_mask.cpu().numpy()  # (domains, E)
        table = table | ~table.any(1, keepdims=True)  # (domains, E)
        with_none = np.concatenate([np.ones_like(table[:1]), table])  # (1 + domains, E)
        row = graph.op("Add", graph.op("Max", "domain", graph.constant(-1, np.int64)), graph.constant(1, np.int64))
        return graph.op("Gather", graph.constant(with_none, np.bool_), row)  # (B, E)

    def _renormalize(self, weights: str, allowed: str, fallback: str) -> str:
        """Restrict weights (B, E) to the allowed experts and rescale them to sum 1; see `restrict_gates`."""
        graph, axis = self.graph, self.graph.integers(1)
        masked = graph.op("Mul", weights, graph.op("Cast", allowed, to=FLOAT))  # (B, E)
        total = graph.op("ReduceSum", masked, axis, keepdims=1)  # (B, 1)
        fallback = graph.op("Div", fallback, graph.op("ReduceSum", fallback, axis, keepdims=1))  # (B, E)
        rescaled = graph.op("Div", masked, graph.op("Max", total, graph.constant(1e-6)))  # (B, E)
        return graph.op("Where", graph.op("Greater", total, graph.constant(1e-6)), rescaled, fallback)

    def _pool(self, states: str) -> str:
        """Return the pooled states (B, D) of (B, T, D)."""
        graph = self.graph
        if self.model.pooling == "last":
            length = graph.op("Shape", "input_ids", start=1, end=2)
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
            if isinstance(head[last], LabelAttention):
                logits[heads.names[key]] = self._label_attention(heads, prefix, f"classes.{key}.{last}")
                continue
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

    def _label_attention(self, heads: Heads, prefix: str, path: str) -> str:
        """Return logits (B, K) of the tokens' states (B, T, D); see `LabelAttention`."""
        graph = self.graph
        queries, weight, bias = (self._head_weight(heads, prefix, f"{path}.{k}") for k in ("queries", "weight", "bias"))
        real = graph.op("Unsqueeze", graph.op("Cast", "attention_mask", to=BOOL), graph.integers(2))  # (B, T, 1)
        root = graph.constant(np.sqrt(self.encoder.width))
        scores = graph.op("Div", graph.linear(self.states, queries, None), root)  # (B, T, K)
        scores = graph.op("Where", real, scores, graph.constant(np.finfo(np.float32).min))  # (B, T, K)
        attention = graph.op("Transpose", graph.op("Softmax", scores, axis=1), perm=[0, 2, 1])  # (B, K, T)
        products = graph.op("Mul", graph.op("MatMul", attention, self.states), weight)  # (B, K, D)
        return graph.op("Add", graph.op("ReduceSum", products, graph.integers(2), keepdims=0), bias)

    def _head_weight(self, heads: Heads, prefix: str, name: str) -> str:
        """Add a weight of the heads."""
        part = TensorPart(file=self.heads_file, tensor=f"{prefix}{name}")
        return self.graph.weight(f"heads/{prefix}{name}", tuple(heads.state_dict()[name].shape), part)

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a weight of the router."""
        return self.graph.weight(f"router/{name}", shape, TensorPart(file=self.router_file, tensor=name))
