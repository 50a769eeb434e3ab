"""The experts' low-rank updates in a graph: of all experts, or of those that a batch keeps."""

from collections.abc import Mapping

import numpy as np
from onnx import TensorProto

from experts.lora import LoraSpec
from moe.export.graph_builder import GraphBuilder
from moe.inference.graph.spec import TensorPart

Specs = tuple[tuple[str, LoraSpec], ...]


class UpdateWeights:
    """Low-rank updates of the experts in a graph: their stacked matrices, and the scale of each rank.

    Args:
        graph: gets the nodes.
        specs: for each layer the experts that change it, with rank and scaling.
        files: by expert the file of its adapter, from the model's folder, and by layer the names of its two matrices.
    """

    def __init__(
        self, graph: GraphBuilder, specs: Mapping[str, Specs], files: Mapping[str, tuple[str, Mapping[str, str]]]
    ) -> None:
        self.graph, self.specs, self.files = graph, specs, files
        self.gates: str | None = None
        """Gates (B, E + S), with the shared experts' last; None for a constant route."""
        self.columns: dict[str, int] = {}
        self._scales: dict[Specs, str] = {}

    def down(self, paths: list[str], x: str, width: int) -> dict[str, str]:
        """Return `g · s · A x` (B, T, R) of each layer that reads x (B, T, D) and has an update."""
        changed = [path for path in paths if self.specs.get(path)]
        if not changed:
            return {}
        specs = tuple(spec for path in changed for spec in self.specs[path])
        parts = [self._part(name, path, "A") for path in changed for name, _ in self.specs[path]]
        name = f"experts/A/{'+'.join(changed)}"
        ranks = [sum(spec.rank for _, spec in self.specs[path]) for path in changed]
        a = self.graph.weight(name, (width, sum(ranks)), *parts, transpose=True)  # (D, R)
        product = self.graph.op("Mul", self.graph.op("MatMul", x, a), self._scale(specs))  # (B, T, R)
        if len(changed) == 1:
            return {changed[0]: product}
        parted = self.graph.split("Split", product, self.graph.integers(*ranks), outputs=len(changed), axis=-1)
        return dict(zip(changed, parted, strict=True))

    def up(self, path: str, product: str, width: int) -> str:
        """Return `B · product` (B, T, D) of a layer."""
        return self.graph.op("MatMul", product, self._stacked_b(path, width))

    def _stacked_b(self, path: str, width: int) -> str:
        specs = self.specs[path]
        parts = [self._part(name, path, "B") for name, _ in specs]
        rank = sum(spec.rank for _, spec in specs)
        return self.graph.weight(f"experts/B/{path}", (rank, width), *parts, axis=1, transpose=True)  # (R, D)

    def _part(self, expert: str, path: str, side: str) -> TensorPart:
        file, keys = self.files[expert]
        return TensorPart(file=file, tensor=f"{keys[path]}.lora_{side}.weight")

    def _scale(self, specs: Specs) -> str:
        """Return `g · s` (B, 1, R), a column for each rank; (1, 1, R) for a constant route."""
        if specs not in self._scales:
            scaling = np.array([spec.scaling for _, spec in specs for _ in range(spec.rank)])  # (R,)
            if self.gates is None:
                self._scales[specs] = self.graph.constant(scaling[None, None])
            else:
                columns = [self.columns[name] for name, spec in specs for _ in range(spec.rank)]
                wide = self.graph.op("Gather", self.gates, self.graph.integers(*columns), axis=1)  # (B, R)
                wide = self.graph.op("Mul", wide, self.graph.constant(scaling))  # (B, R)
                self._scales[specs] = self.graph.op("Unsqueeze", wide, self.graph.integers(1))  # (B, 1, R)
        return self._scales[specs]


class KeptUpdateWeights(UpdateWeights):
    """The updates of the experts that a batch keeps: the rows of all others are left out of the stacked matrices."""

    def __init__(
        self, graph: GraphBuilder, specs: Mapping[str, Specs], files: Mapping[str, tuple[str, Mapping[str, str]]]
    ) -> None:
        super().__init__(graph, specs, files)
        self.kept = ""
        """Name of (E + S,) bool, the experts to compute."""
        self._ranks: dict[tuple[int, ...], str] = {}
        self._counts: dict[str, str] = {}

    def down(self, paths: list[str], x: str, width: int) -> dict[str, str]:
        """Return `g · s · A x` (B, T, R') of each layer that reads x (B, T, D), R' the ranks of the kept experts."""
        changed = [path for path in paths if self.specs.get(path)]
        if not changed:
            return {}
        graph, specs = self.graph, tuple(spec for path in changed for spec in self.specs[path])
        parts = [self._part(name, path, "A") for path in changed for name, _ in self.specs[path]]
        name = f"experts/A by rank/{'+'.join(changed)}"
        stacked = graph.weight(name, (sum(spec.rank for _, spec in specs), width), *parts)  # (R, D)
        ranks = self._kept_ranks(specs)  # (R,)
        a = graph.op("Compress", stacked, ranks, axis=0)  # (R', D)
        scale = graph.op("Compress", self._scale(specs), ranks, axis=2)  # (B, 1, R')
        product = graph.op("Mul", graph.linear(x, a), scale)  # (B, T, R')
        if len(changed) == 1:
            return {changed[0]: product}
        counts = [self._count(self._kept_ranks(self.specs[path])) for path in changed]
        parted = graph.split("Split", product, graph.op("Concat", *counts, axis=0), outputs=len(changed), axis=-1)
        return dict(zip(changed, parted, strict=True))

    def up(self, path: str, product: str, width: int) -> str:
        """Return `B · product` (B, T, D) of a layer."""
        b = self.graph.op("Compress", self._stacked_b(path, width), self._kept_ranks(self.specs[path]), axis=0)
        return self.graph.op("MatMul", product, b)  # b is (R', D)

    def _kept_ranks(self, specs: Specs) -> str:
        """Return which ranks belong to kept experts, (R,) bool."""
        columns = tuple(self.columns[name] for name, spec in specs for _ in range(spec.rank))
        if columns not in self._ranks:
            self._ranks[columns] = self.graph.op("Gather", self.kept, self.graph.integers(*columns))
        return self._ranks[columns]

    def _count(self, ranks: str) -> str:
        """Return the number of kept ranks, (1,)."""
        if ranks not in self._counts:
            integers = self.graph.op("Cast", ranks, to=TensorProto.INT64)
            self._counts[ranks] = self.graph.op("ReduceSum", integers, self.graph.integers(0), keepdims=1)
        return self._counts[ranks]
