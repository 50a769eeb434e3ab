"""A mixture's graph in parts: the router first, then each batch with the experts that its texts keep."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from moe.inference.graph.runtime import open_session, run_session
from moe.inference.graph.spec import PART_FILES, PartName, RoutedParts, TensorPart


class PartSessions:
    """The sessions of the parts, each loaded when it is first needed.

    Args:
        graph: folder of the graph.
        parts: what the parts read and return.
        arrays: all weights by name.
        factors: the experts' matrices.
        shared: names of the shared experts.
        threads: CPU threads of a run; None leaves the choice to onnxruntime.
    """

    def __init__(
        self,
        graph: Path,
        parts: RoutedParts,
        arrays: Mapping[str, np.ndarray],
        factors: Mapping[TensorPart, np.ndarray],
        shared: Sequence[str],
        threads: int | None,
    ) -> None:
        self.graph, self.parts, self.arrays, self.factors = graph, parts, arrays, factors
        self.shared, self.threads = tuple(shared), threads
        self._folded: dict[str, Any] = {}
        """Sessions by the expert in their weights, the least recently used first."""
        self._lock = Lock()

    def route(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the router; return its outputs by name."""
        return self._run("router", self._router, inputs, self.parts.router.outputs)

    def run_kept(self, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, np.ndarray]:
        """Run the layers with the experts of the input `kept`."""
        return self._run("experts", self._experts, inputs, outputs)

    def run_folded(
        self, expert: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Run the layers with an expert, and the shared ones, in their weights."""
        with self._lock:  # threads may share a predictor
            if expert in self._folded:
                session = self._folded.pop(expert)
            else:
                while self._folded and (len(self._folded) + 1) * self._fold_size > self.parts.fold_memory:
                    del self._folded[next(iter(self._folded))]
                session = self._open("folded", self._fold(expert))
            self._folded[expert] = session  # now the most recently used
        return self._run("folded", session, inputs, outputs)

    def is_folded(self, expert: str) -> bool:
        """Whether there are weights with this expert in them."""
        return expert in self._folded

    @cached_property
    def can_fold(self) -> bool:
        """Whether weights with one expert in them fit the memory for them."""
        return 0 < self._fold_size <= self.parts.fold_memory

    @cached_property
    def _router(self) -> Any:
        return self._open("router", {})

    @cached_property
    def _experts(self) -> Any:
        return self._open("experts", {})

    @cached_property
    def _fold_size(self) -> int:
        names = {update.weight for updates in self.parts.updates.values() for update in updates}
        return sum(self.arrays[name].nbytes for name in names)

    def _fold(self, expert: str) -> dict[str, np.ndarray]:
        """Return the weights `W + Σ_e s_e B_e A_e` of an expert and the shared ones, by name."""
        arrays: dict[str, np.ndarray] = {}
        for name in (expert, *self.shared):
            for update in self.parts.updates[name]:
                product = self.factors[update.b] @ self.factors[update.a]  # (D_out, D_in)
                product *= np.float32(update.scaling)
                product += arrays.get(update.weight, self.arrays[update.weight])
                arrays[update.weight] = product
        return arrays

    def _open(self, name: PartName, replaced: Mapping[str, np.ndarray]) -> Any:
        arrays = {weight: replaced.get(weight, self.arrays[weight]) for weight in self.parts.part(name).weights}
        return open_session(self.graph / PART_FILES[name], arrays, self.threads)

    def _run(
        self, name: PartName, session: Any, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]
    ) -> dict[str, np.ndarray]:
        read = {key: inputs[key] for key in self.parts.part(name).inputs}
        return dict(zip(outputs, run_session(session, outputs, read), strict=True))
