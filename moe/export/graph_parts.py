"""A mixture's graph in parts, for batches that keep few experts: what is written, and its record in `graph.json`."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from moe.export.mixture_graph import AdapterFiles
from moe.inference.graph.spec import BACKBONE, FoldedUpdate, GraphPart, PartName, RoutedParts, TensorPart, WeightSource
from moe.inference.torch_predictor import relative_costs
from moe.model.mixture import Mixture


@dataclass(frozen=True)
class WrittenGraph:
    """A graph as bytes.

    Args:
        content: the file's content.
        inputs, outputs: their names, in order.
        weights: the source of every weight.
    """

    content: bytes
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, WeightSource]


def has_parts(model: Mixture) -> bool:
    """Whether a model's batches may keep few of several experts, each of which changes the same layers."""
    bank = model.bank
    if model.active_expert is not None or len(bank.routed_experts) < 2:
        return False
    changed = {path for attached in bank.adapters.values() for path in attached.layers}
    return bool(changed) and all(set(bank.adapters[name].layers) == changed for name in bank.routed_experts)


def describe_parts(
    model: Mixture, complete: WrittenGraph, parts: Mapping[PartName, WrittenGraph], adapters: AdapterFiles
) -> RoutedParts:
    """Return the record of a graph's parts, by their names in `PART_FILES`."""
    bank = model.bank
    added = {name: source for part in parts.values() for name, source in part.weights.items()}
    return RoutedParts(
        router=_describe(parts["router"]),
        experts=_describe(parts["experts"]),
        folded=_describe(parts["folded"]),
        weights={name: source for name, source in added.items() if name not in complete.weights},
        updates={name: _updates(model, name, adapters) for name in (*bank.routed_experts, *bank.shared_experts)},
        costs=tuple(relative_costs(bank).tolist()),
        exclusive=model.gate is not None and model.gate.settings.kind == "hard",
        fold_memory=bank.folded.limit,
    )


def _describe(part: WrittenGraph) -> GraphPart:
    return GraphPart(
        sha256=hashlib.sha256(part.content).hexdigest(),
        inputs=part.inputs,
        outputs=part.outputs,
        weights=tuple(part.weights),
    )


def _updates(model: Mixture, expert: str, adapters: AdapterFiles) -> tuple[FoldedUpdate, ...]:
    file, stems = adapters[expert]
    layers = zip(model.bank.base_layers, model.bank.gated_layers, strict=True)
    scaling = {path: layer.lora_specs[expert].scaling for path, layer in layers if expert in layer.lora_specs}
    return tuple(
        FoldedUpdate(
            weight=f"{BACKBONE}/{path}.weight",
            a=TensorPart(file=file, tensor=f"{stem}.lora_A.weight"),
            b=TensorPart(file=file, tensor=f"{stem}.lora_B.weight"),
            scaling=scaling[path],
        )
        for path, stem in stems.items()
    )
