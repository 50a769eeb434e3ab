"""The router of a mixture as nodes of a graph: from the trunk's states to the gates of each text."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from moe.export.graph_builder import GraphBuilder
from moe.inference.graph.spec import TensorPart
from moe.model.mixture import Mixture
from router.gate import Gate

BOOL, FLOAT = TensorProto.BOOL, TensorProto.FLOAT


@dataclass(frozen=True)
class RouterValues:
    """Names of the router's values in a graph.

    Args:
        gates: (B, E), weights by which the heads of the experts are mixed.
        updates: (B, E), weights with which the experts are computed; 0 in an unfamiliar text that the shared expert
            answers alone.
    """

    gates: str
    updates: str


class RouterGraph:
    """Writes a mixture's router into a graph with the inputs of the router; see `MixtureGraphBuilder`.

    Args:
        graph: gets the nodes, and the outputs `routing_weights` and `unfamiliar`.
        model: a mixture with a router.
        width: of the trunk's states (D).
        file: the router's weights, from the model's folder.
    """

    def __init__(self, graph: GraphBuilder, model: Mixture, width: int, file: str) -> None:
        self.graph, self.model, self.width, self.file = graph, model, width, file

    def route(self, states: str) -> RouterValues:
        """Write the router on the trunk's states (B, T, D)."""
        gate, graph = self.model.gate, self.graph
        assert gate is not None
        logits, unfamiliar = self._router_logits(gate, states)  # (B, G + E), (B,)
        gates, probs = self._gates(gate, logits)  # (B, E) each
        graph.output("routing_weights", probs)
        allowed = self._allowed()  # (B, E)
        probs = self._renormalize(probs, allowed, graph.op("Cast", allowed, to=FLOAT))
        gates = self._pruned(self._renormalize(gates, allowed, probs), gate.num_experts)  # (B, E)
        soft = gates if unfamiliar is None else self._muted(gates, unfamiliar, allowed)  # (B, E)
        hard = self._argmax_mask(probs, gate.num_experts)  # (B, E)
        updates = graph.op("Where", "hard", hard, soft)  # (B, E), by which the experts are computed
        gates = updates if unfamiliar is None else graph.op("Where", "hard", hard, gates)  # (B, E), of the heads
        return RouterValues(gates, updates)

    def _pruned(self, gates: str, experts: int) -> str:
        """Set gates (B, E) below the input `prune` to 0 and rescale the others to sum 1; see `prune_gates`."""
        graph = self.graph
        largest = graph.op("Cast", self._argmax_mask(gates, experts), to=BOOL)  # (B, E)
        active = graph.op("Or", graph.op("GreaterOrEqual", gates, "prune"), largest)  # (B, E)
        pruned = self._renormalize(gates, active, graph.op("Cast", active, to=FLOAT))  # (B, E)
        return graph.op("Where", graph.op("Greater", "prune", graph.constant(0.0)), pruned, gates)

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
        graph, width = self.graph, self.width
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

    def _weight(self, name: str, shape: tuple[int, ...]) -> str:
        """Add a weight of the router."""
        return self.graph.weight(f"router/{name}", shape, TensorPart(file=self.file, tensor=name))
