"""`moe export`: checks the options, runs the exporter of the target and formats its report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import MANIFEST
from experts.cards import EXPERT_CARD
from experts.errors import Fault, suggest
from experts.json_io import INLINE
from experts.outputs import check_output_folder
from moe.checkpoints.expert import read_backbone_settings
from moe.checkpoints.mixture import read_card
from moe.console import Table, info
from moe.export.graph import write_graph
from moe.export.hub import HubFolder, write_hub_folder
from moe.export.int8 import ExportedInt8Graph, read_check_rows
from moe.export.merged_weights import MergedWeights, write_merged_weights
from moe.export.onnx import ExportedGraph, write_onnx, write_openvino
from moe.export.peft import ExportedAdapter, ExportedAdapters, ExportedCausalAdapter, write_adapters
from moe.export.selection import (
    AdapterSpec,
    ExportSource,
    load_export_source,
    merged_expert_spec,
    single_expert_specs,
)
from moe.export.vllm_classifier import ExportedClassifier, ExportedClassifiers, write_classifiers
from moe.inference.graph.spec import GRAPH_FOLDER
from moe.inference.load_mixture import override_backbone
from moe.inference.text_io import TextSource
from moe.model.backbone import BackboneSettings, read_backbone_config
from moe.runs.layout import EXPORT
from moe.runs.locking import model_lock, new_folder_lock


@dataclass(frozen=True)
class ExportRequest:
    """Options of `moe export`.

    Args:
        model: folder of a mixture or an expert.
        to: a key of `TARGETS`.
        out: folder to write; by default `export/TO` beside the model; a graph is always in the model's folder.
        experts: export only these experts.
        merge: PEFT's name of the method that merges several experts into one.
        weights, density, rank: options of `merge`; see `moe.export.selection.merged_expert_spec`.
        quantized: quantize the merged weights again.
        license_id: license in the model card for the Hub, such as `apache-2.0`.
        sets: `backbone.KEY=VALUE` overrides of the model's backbone settings.
        overwrite: replace an existing folder.
        int8: also write an INT8 graph.
        texts: where the texts come from on which the INT8 graph is compared with the fp32 one.
    """

    model: Path
    to: str
    out: Path | None = None
    experts: tuple[str, ...] = ()
    merge: str | None = None
    weights: str | None = None
    density: float | None = None
    rank: int | None = None
    quantized: bool = False
    license_id: str | None = None
    sets: tuple[str, ...] = ()
    overwrite: bool = False
    int8: bool = False
    texts: TextSource = TextSource()

    @property
    def folder(self) -> Path:
        """The folder to write."""
        if self.to == "graph":
            return self.model / GRAPH_FOLDER
        return self.out or self.model.parent / EXPORT / self.to


Exported = ExportedAdapters | ExportedClassifiers | ExportedGraph | HubFolder | MergedWeights
"""What the exporter of a target returns."""


@dataclass(frozen=True)
class ExportReport:
    """A model that was written in another format.

    Args:
        to: the target.
        model: folder of the model.
        folder: the folder that was written.
        exported: what the exporter of the target wrote.
        files: bytes of each file by its path in the folder.
    """

    to: str
    model: str
    folder: str
    exported: Exported = field(metadata=INLINE)
    files: Mapping[str, int]


def export(request: ExportRequest) -> ExportReport:
    """Write a model in another format.

    Raises:
        Fault: if the target is unknown or does not take one of the options, the folder exists, replaces an input or has
            other files, the model cannot be exported to the target, or another process writes there.
    """
    if request.to not in TARGETS:
        raise Fault(f"--to {', '.join(TARGETS)}", repr(request.to), suggest(request.to, TARGETS))
    _check_options(request)
    with model_lock(request.model) if request.to == "graph" else new_folder_lock(request.folder):
        if request.to != "graph":
            check_output_folder(request.folder, [request.model], request.overwrite)
            check_output_folder(request.folder, [Path(export_backbone_settings(request).name)], request.overwrite)
        return _export(request)


def _export(request: ExportRequest) -> ExportReport:
    exported = TARGETS[request.to](request)
    files = sorted(path for path in request.folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    sizes = {path.relative_to(request.folder).as_posix(): path.stat().st_size for path in files}
    return ExportReport(request.to, str(request.model), str(request.folder), exported, sizes)


def _check_options(request: ExportRequest) -> None:
    options = {
        "--expert": (request.experts, ("peft", "vllm", "dense")),
        "--merge": (request.merge, ("peft", "vllm", "dense")),
        "--quantized": (request.quantized, ("dense",)),
        "--license": (request.license_id, ("hub-folder",)),
        "--out-dir": (request.out, tuple(target for target in TARGETS if target != "graph")),
        "--set": (request.sets, ("peft", "vllm", "dense", "onnx", "openvino")),
        "--int8": (request.int8, ("graph",)),
    }
    for option, (value, targets) in options.items():
        if value and request.to not in targets:
            listed = " or ".join([", ".join(targets[:-1]), targets[-1]] if len(targets) > 1 else targets)
            raise Fault(f"{option} only with --to {listed}", f"--to {request.to}", f"omit {option}")
    if request.merge is None and (request.weights or request.density is not None or request.rank is not None):
        expected = "--merge METHOD together with --weights, --density or --rank"
        raise Fault(expected, "no --merge", "add a method, e.g. --merge linear")
    if request.int8 != (request.texts.file is not None):
        expected = "--int8 together with --file, on whose texts its labels and speed are compared with fp32"
        raise Fault(expected, "--int8 alone" if request.int8 else "--file alone", "set both, or neither")
    if request.merge is not None and request.experts:
        raise Fault("either --merge or --expert", "both", "select the experts to merge with --weights")


def _adapter_specs(request: ExportRequest, source: ExportSource) -> list[AdapterSpec]:
    if request.merge is not None:
        spec = merged_expert_spec(source.model, request.merge, request.weights, request.density, request.rank)
        return [spec]
    return single_expert_specs(source.model, request.experts)


def _export_peft(request: ExportRequest) -> ExportedAdapters:
    source = load_export_source(request.model, request.sets)
    return ExportedAdapters(write_adapters(request.folder, source, _adapter_specs(request, source), request.overwrite))


def _export_vllm(request: ExportRequest) -> ExportedClassifiers:
    source = load_export_source(request.model, request.sets)
    return write_classifiers(request.folder, source, _adapter_specs(request, source), request.overwrite)


def _export_dense(request: ExportRequest) -> MergedWeights:
    settings = with_stored_dtype(export_backbone_settings(request))
    source = load_export_source(request.model, (*request.sets, f"backbone.dtype={settings.dtype}"))
    specs = _adapter_specs(request, source)
    if len(specs) != 1:
        names = ", ".join(spec.name for spec in specs)
        remedy = "select one with --expert, or merge several with --merge"
        raise Fault("one expert to merge into the backbone", names, remedy)
    return write_merged_weights(
        request.folder, source, settings, specs[0], quantized=request.quantized, overwrite=request.overwrite
    )


def export_backbone_settings(request: ExportRequest) -> BackboneSettings:
    """Return the settings with which the model's backbone is loaded, overrides included."""
    if (request.model / EXPERT_CARD).is_file():
        stored = read_backbone_settings(request.model)
    else:
        stored = read_card(request.model).backbone_settings
    return override_backbone(stored, request.sets)


def with_stored_dtype(settings: BackboneSettings) -> BackboneSettings:
    """Replace the dtype `auto` by that of the backbone's files, whichever is fastest on this machine."""
    if settings.dtype != "auto" or settings.quantization != "none":
        return settings
    is_float32 = read_backbone_config(settings).dtype in (None, torch.float32)
    return settings.model_copy(update={"dtype": "float32" if is_float32 else "bfloat16"})


def _load_fp32(request: ExportRequest) -> ExportSource:
    """Load the model with its backbone in fp32, in which graphs compute."""
    if (quantization := export_backbone_settings(request).quantization) != "none":
        info(f"the graph uses the backbone's fp32 weights, not {quantization}: predictions differ slightly")
    return load_export_source(request.model, (*request.sets, "backbone.quantization=none", "backbone.dtype=float32"))


TARGETS: Mapping[str, Callable[[ExportRequest], Exported]] = {
    "peft": _export_peft,
    "vllm": _export_vllm,
    "dense": _export_dense,
    "onnx": lambda request: write_onnx(request.folder, _load_fp32(request), request.overwrite),
    "openvino": lambda request: write_openvino(request.folder, _load_fp32(request), request.overwrite),
    "graph": lambda request: write_graph(request.model, read_check_rows(request.texts) if request.int8 else ()),
    "hub-folder": lambda request: write_hub_folder(
        request.folder, request.model, request.license_id, request.overwrite
    ),
}


def export_view(report: ExportReport) -> RenderableType:
    """Format a report for the terminal: the files and what to know about them."""
    table = Table(title=report.folder, title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("KB", justify="right")
    for name, size in report.files.items():
        table.add_row(name, f"{size / 1000:,.1f}")
    return Group(table, *(Text(line) for line in _notes(report.exported)))


def _notes(exported: Exported) -> list[str]:
    match exported:
        case ExportedAdapters(adapters):
            return [_adapter_note(adapter) for adapter in adapters]
        case ExportedClassifiers(classifiers):
            return [_classifier_note(classifier) for classifier in classifiers]
        case ExportedGraph(inputs, outputs, difference):
            return [
                f"inputs: {', '.join(inputs)}; outputs: {', '.join(outputs)}",
                f"largest difference from PyTorch on texts of several lengths: {difference:.1g}",
                *([exported.int8.note] if isinstance(exported, ExportedInt8Graph) else []),
            ]
        case MergedWeights():
            return [f"{exported.name} merged into {exported.dtype} weights"]
        case HubFolder():
            count, split = exported.figures.count, exported.figures.of
            card = f"model card with {count} metrics on {split} rows" if count else "model card without metrics"
            return [card, "upload it with: hf upload NAME FOLDER"]


def _adapter_note(adapter: ExportedAdapter) -> str:
    note = f"{adapter.name}: rank {adapter.rank} in {adapter.layers} layers"
    if not isinstance(adapter, ExportedCausalAdapter):
        return note
    if adapter.vllm:
        return f"{note}; vLLM cannot load it: {'; '.join(adapter.vllm)}"
    return f"{note}; vLLM loads it with --max-lora-rank {adapter.max_lora_rank} or more"


def _classifier_note(classifier: ExportedClassifier) -> str:
    note = f"{classifier.name}: task {classifier.task}, labels {', '.join(classifier.labels)}"
    if classifier.vllm:
        return f"{note}; vLLM cannot load it: {'; '.join(classifier.vllm)}"
    return f"{note}; vLLM loads it with --max-lora-rank {classifier.max_lora_rank} or more"
