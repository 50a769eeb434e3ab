"""`graph/` in a model's folder: the model as a graph without weights, with which it predicts without torch."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from experts.atomic_io import MANIFEST, atomic_folder, sha256_of, write_bytes, write_json, write_text
from experts.cards import EXPERT_CARD
from experts.domain import ORDINAL
from experts.errors import Fault
from experts.expert_io import ADAPTER
from experts.expert_io import HEADS as EXPERT_HEADS
from moe.checkpoints.expert import SHARED_NAME, read_backbone_settings
from moe.checkpoints.file_names import HEADS, ROUTER
from moe.checkpoints.mixture import parse_mixture_card, read_card
from moe.console import info
from moe.export.graph_parts import WrittenGraph, describe_parts, has_parts
from moe.export.int8 import ExportedInt8Graph, compare_int8, quantize_graph
from moe.export.mixture_graph import AdapterFiles, MixtureGraphBuilder, Part
from moe.export.onnx import CHECK_TEXTS, TOLERANCE, ExportedGraph
from moe.export.selection import ExportSource, load_export_source
from moe.inference.batches import CPU_TOKEN_BUDGET
from moe.inference.graph.onnx_predictor import OnnxPredictor
from moe.inference.graph.session import GraphSession, check_graph, tensor_names
from moe.inference.graph.spec import (
    BACKBONE,
    GRAPH_FILE,
    GRAPH_FOLDER,
    INT8_FILE,
    PART_FILES,
    SPEC_FILE,
    TOKENIZER_FILE,
    GraphSpec,
    RoutedParts,
)
from moe.inference.rows import Row
from moe.inference.torch_predictor import TorchPredictor, build_inference_spec
from moe.inference.windows import Scores
from moe.model.backbone import BackboneSettings, weight_files
from moe.model.mode import Routing
from moe.runs.versions import package_versions


def write_graph(folder: Path, int8_rows: Sequence[Row] = ()) -> ExportedGraph:
    """Write the graph of a model into its folder, replacing an earlier one, after comparing it with PyTorch.

    Args:
        folder: of a mixture or a single expert.
        int8_rows: rows with `text` on which an INT8 graph, which is then also written, is compared with the fp32 one.

    Returns:
        the graph; with `int8_rows` an `ExportedInt8Graph`.

    Raises:
        Fault: if the model is damaged, has no graph (a language model, a quantized backbone, another family), or the
            folder cannot be written.
    """
    settings = _backbone_settings(folder)
    if settings.quantization != "none" or settings.dtype == "bfloat16":
        kind = settings.quantization if settings.quantization != "none" else settings.dtype
        raise Fault("a backbone in float32 for a graph", kind, "predict with --runtime torch")
    source = load_export_source(folder, ("backbone.dtype=float32",))
    _check_source(source)
    files = weight_files(settings)
    adapters = _adapter_files(source)

    def build(part: Part) -> WrittenGraph:
        heads = HEADS if source.model.active_expert is None else EXPERT_HEADS
        builder = MixtureGraphBuilder(source.model, tensor_names(files), adapters, heads, ROUTER, part)
        return WrittenGraph(builder.build(), builder.inputs, tuple(builder.graph.outputs), builder.graph.weights)

    complete = build("complete")
    parts = {part: build(part) for part in PART_FILES} if has_parts(source.model) else {}
    with atomic_folder(folder / GRAPH_FOLDER, overwrite=True) as temporary:
        write_bytes(temporary / GRAPH_FILE, complete.content)
        for part, written in parts.items():
            write_bytes(temporary / PART_FILES[part], written.content)
        tokenizer = source.model.loaded_backbone.tokenizer
        write_text(temporary / TOKENIZER_FILE, tokenizer.backend_tokenizer.to_str())
        routed = describe_parts(source.model, complete, parts, adapters) if parts else None
        spec = _graph_spec(source, complete, routed, settings, temporary)
        write_json(temporary / SPEC_FILE, spec.to_json())
        session = GraphSession(folder, graph=temporary)
        difference = _compare_with_torch(source, session)
        exported = ExportedGraph(inputs=spec.inputs, outputs=spec.outputs, difference=difference)
        if int8_rows:
            quantize_graph(temporary / GRAPH_FILE, session.arrays, temporary / INT8_FILE)
            spec = spec.model_copy(update={"int8_sha256": sha256_of(temporary / INT8_FILE)})
            write_json(temporary / SPEC_FILE, spec.to_json())
            comparison = compare_int8(session, GraphSession(folder, graph=temporary, int8=True), int8_rows)
            exported = ExportedInt8Graph(**vars(exported), int8=comparison)
    return exported


def write_graph_if_possible(folder: Path) -> bool:
    """Write the graph of a finished model, or say why it predicts with torch; return whether it was written.

    A language model has no graph, which is not worth a message.
    """
    if not (folder / EXPERT_CARD).is_file() and parse_mixture_card(folder).language:
        return False
    try:
        write_graph(folder)
    except Fault as fault:
        info(f"no graph is written for {folder.name}, which predicts with PyTorch: {fault}")
        return False
    return True


def copy_graph(source: Path, target: Path) -> None:
    """Copy the graph of a model, without its INT8 graph, to a copy with another manifest, unless it is not current."""
    if not (source / GRAPH_FOLDER).is_dir():
        return
    try:
        spec = check_graph(source)
    except Fault as fault:
        info(f"the graph is not copied: {fault}")
        return
    with atomic_folder(target / GRAPH_FOLDER, overwrite=True) as temporary:
        for name in (GRAPH_FILE, TOKENIZER_FILE, *(PART_FILES.values() if spec.parts is not None else ())):
            shutil.copyfile(source / GRAPH_FOLDER / name, temporary / name)
        spec = spec.model_copy(update={"manifest_sha256": sha256_of(target / MANIFEST), "int8_sha256": None})
        write_json(temporary / SPEC_FILE, spec.to_json())


def _backbone_settings(folder: Path) -> BackboneSettings:
    if (folder / EXPERT_CARD).is_file():
        return read_backbone_settings(folder)
    return read_card(folder).backbone_settings


def _check_source(source: ExportSource) -> None:
    if source.language:
        raise Fault("a classification model for a graph", "a language model", "predict with --runtime torch")
    if ordinal := [task for task, kind in source.model.labels.kinds.items() if kind == ORDINAL]:
        raise Fault(
            "tasks of other kinds for a graph", f"the ordinal task {ordinal[0]}", "predict with --runtime torch"
        )
    if not isinstance(source.model.loaded_backbone.tokenizer, PreTrainedTokenizerFast):
        raise Fault("a fast tokenizer for a graph", "a slow one", "predict with --runtime torch")


def _adapter_files(source: ExportSource) -> AdapterFiles:
    """Return by expert its adapter's file, from the model's folder, and by layer the name of its matrices there."""
    active = source.model.active_expert
    files = {}
    for name, attached in source.model.bank.adapters.items():
        if active is None:
            file = f"experts/{name}/{ADAPTER}"
        else:
            file = ADAPTER if name == active else f"../{SHARED_NAME}/{ADAPTER}"
        stems = {
            key.removesuffix(".lora_A.weight")
            for key in tensor_names([source.folder / file])
            if key.endswith(".lora_A.weight")
        }
        files[name] = (file, {path: next(s for s in stems if s.endswith(f".{path}")) for path in attached.layers})
    return files


def _graph_spec(
    source: ExportSource, complete: WrittenGraph, parts: RoutedParts | None, settings: BackboneSettings, graph: Path
) -> GraphSpec:
    folder, backbone, gate = source.folder, source.model.loaded_backbone, source.model.gate
    used = {part.file for weight in complete.weights.values() for part in weight.parts} - {BACKBONE}
    return GraphSpec(
        version=package_versions()["finmoe"],
        backbone=settings.name,
        revision=settings.revision,
        backbone_sha256=backbone.id.sha256,
        manifest_sha256=sha256_of(folder / MANIFEST),
        graph_sha256=sha256_of(graph / GRAPH_FILE),
        tokenizer_sha256=sha256_of(graph / TOKENIZER_FILE),
        files={name: sha256_of(folder / name) for name in sorted(used)},
        pad_id=backbone.tokenizer.pad_token_id,
        truncation_side=backbone.tokenizer.truncation_side,
        inputs=complete.inputs,
        outputs=complete.outputs,
        weights=dict(complete.weights),
        spec=build_inference_spec(source.model, source.template, source.max_length),
        prune=gate.settings.prune if gate is not None else 0.0,
        parts=parts,
    )


def _compare_with_torch(source: ExportSource, session: GraphSession) -> float:
    """Return the largest absolute difference of the graph's outputs from PyTorch's, in every routing and domain.

    Raises:
        Fault: if it is larger than `TOLERANCE`.
    """
    long = " ".join(CHECK_TEXTS * (source.max_length // len(CHECK_TEXTS[1].split())))  # more than one window
    texts, largest = [*CHECK_TEXTS, long], 0.0
    domains = [None, *(domain.name for domain in session.spec.spec.domains)]
    pins = [domains[index % len(domains)] for index in range(len(texts))]
    few, many = CPU_TOKEN_BUDGET, 1  # windows are batched by their experts if they are many for the budget
    runs: tuple[tuple[Routing, list[str | None] | None, tuple[int, ...]], ...] = (
        ("soft", None, (few,)),
        ("soft", pins, (few,)),
        ("hard", pins, (few, many)),
        ("pruned", None, (many,)),
    )
    for routing, pin, budgets in runs:
        options: dict[str, Any] = {"routing": routing, "windows": True, "states": True}
        expected = TorchPredictor(source.model, source.template, source.max_length, **options).score(texts, pin)
        for budget in budgets:
            ours = OnnxPredictor(session, **options, batch_tokens=budget)
            ours.fold_tokens = 0 if routing == "hard" else ours.fold_tokens
            largest = float(np.maximum(largest, _difference(ours.score(texts, pin), expected)))
    if not largest <= TOLERANCE:
        limit = f"a graph whose outputs differ from PyTorch's by at most {TOLERANCE:g}"
        raise Fault(limit, f"a difference of {largest:.1g}", "report this as a bug, with the model")
    return largest


def _difference(ours: Scores, theirs: Scores) -> float:
    pairs = [(ours.logits[name], theirs.logits[name]) for name in theirs.logits]
    pairs += [(ours.routing_weights, theirs.routing_weights)]
    for a, b in ((ours.polarity, theirs.polarity), (ours.states, theirs.states)):
        pairs += [(a, b)] if a is not None and b is not None else []
    return float(np.max([np.abs(a - b).max(initial=0.0) for a, b in pairs]))  # NaN if one is NaN
