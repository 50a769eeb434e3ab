"""`moe export` from what is asked to what is written, one function a target, and how that is shown.

What each target writes lies in the modules beside.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Group, RenderableType
from rich.text import Text

from experts.atomic_io import MANIFEST, refuse_existing
from experts.errors import Fault, suggest
from experts.expert_io import CARD as EXPERT_CARD
from moe.checkpoints.expert import read_backbone_settings
from moe.checkpoints.mixture import read_card
from moe.console import Table, info
from moe.export.hub import write_hub_folder
from moe.export.merged_weights import write_merged_weights
from moe.export.onnx import write_onnx, write_openvino
from moe.export.peft import write_adapters
from moe.export.selection import AdapterSpec, ExportSource, single_expert_specs, load_export_source, merged_expert_spec
from moe.inference.loading import override_backbone
from moe.model.backbone import BackboneSettings, read_backbone_config


@dataclass(frozen=True)
class ExportRequest:
    """What `moe export` is asked.

    Args:
        model: a mixture's or an expert's folder.
        to: a name in `TARGETS`.
        out: the folder to write; `export/TO` beside the model by default.
        experts: these alone.
        merge: PEFT's name of the way to weigh several experts into one.
        weights, density, rank: of that, see `moe.export.selection.merged_expert_spec`.
        quantized: fold into few bits again.
        licence: what a card for the hub says.
        sets: `backbone.KEY=VALUE`, laid over the model's.
        overwrite: take the place of a folder that is there.
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
    licence: str | None = None
    sets: tuple[str, ...] = ()
    overwrite: bool = False

    @property
    def target(self) -> Path:
        """The folder to write."""
        return self.out or self.model.parent / "export" / self.to


ExportReport = dict[str, Any]


def export(ask: ExportRequest) -> ExportReport:
    """Write a model for another program.

    Returns:
        `to`, `folder`, `files` (bytes by name), and what the target tells.

    Raises:
        Fault: for an unknown target, an option that it does not take, a folder that is there, or whatever the target
            cannot do with the model.
    """
    if ask.to not in TARGETS:
        raise Fault(f"--to {', '.join(TARGETS)}", repr(ask.to), suggest(ask.to, TARGETS))
    _refuse_options(ask)
    refuse_existing(ask.target, ask.overwrite)
    told = TARGETS[ask.to](ask)
    files = sorted(path for path in ask.target.rglob("*") if path.is_file() and path.name != MANIFEST)
    sizes = {path.relative_to(ask.target).as_posix(): path.stat().st_size for path in files}
    return {"to": ask.to, "model": str(ask.model), "folder": str(ask.target)} | told | {"files": sizes}


def _refuse_options(ask: ExportRequest) -> None:
    given = {
        "--expert": (ask.experts, ("peft", "dense")),
        "--merge": (ask.merge, ("peft", "dense")),
        "--quantized": (ask.quantized, ("dense",)),
        "--license": (ask.licence, ("hub-folder",)),
        "--set": (ask.sets, ("peft", "dense", "onnx", "openvino")),
    }
    for option, (value, targets) in given.items():
        if value and ask.to not in targets:
            raise Fault(f"{option} for --to {' or '.join(targets)}", f"--to {ask.to}", "leave it out")
    if ask.merge is None and (ask.weights or ask.density is not None or ask.rank is not None):
        raise Fault("--merge METHOD beside --weights, --density or --rank", "none", "name one, e.g. --merge linear")
    if ask.merge is not None and ask.experts:
        raise Fault("--merge or --expert", "both", "say by --weights which experts are merged")


def _choices(ask: ExportRequest, source: ExportSource) -> list[AdapterSpec]:
    if ask.merge is not None:
        return [merged_expert_spec(source.model, ask.merge, ask.weights, ask.density, ask.rank)]
    return single_expert_specs(source.model, ask.experts)


def _peft(ask: ExportRequest) -> ExportReport:
    source = load_export_source(ask.model, ask.sets)
    return {"adapters": write_adapters(ask.target, source, _choices(ask, source), ask.overwrite)}


def _dense(ask: ExportRequest) -> ExportReport:
    settings = with_stored_dtype(export_backbone_settings(ask))
    source = load_export_source(ask.model, (*ask.sets, f"backbone.dtype={settings.dtype}"))
    choices = _choices(ask, source)
    if len(choices) != 1:
        names = ", ".join(one.name for one in choices)
        raise Fault("one expert to fold", names, "name it by --expert, or weigh several into one by --merge")
    return write_merged_weights(ask.target, source, settings, choices[0], ask.quantized, ask.overwrite)


def export_backbone_settings(ask: ExportRequest) -> BackboneSettings:
    """How the model's backbone is loaded."""
    own = read_backbone_settings(ask.model) if (ask.model / EXPERT_CARD).is_file() else read_card(ask.model).backbone_settings
    return override_backbone(own, ask.sets)


def with_stored_dtype(settings: BackboneSettings) -> BackboneSettings:
    """Where nobody names a precision, the one that the backbone's own files are in, whatever computes fast here."""
    if settings.dtype != "auto" or settings.quantization != "none":
        return settings
    whole = read_backbone_config(settings).dtype in (None, torch.float32)
    return settings.model_copy(update={"dtype": "float32" if whole else "bfloat16"})


def _load_fp32(ask: ExportRequest) -> ExportSource:
    """The model with its backbone in fp32, as graphs compute."""
    if (loaded := export_backbone_settings(ask).quantization) != "none":
        info(f"the graph computes with the backbone's whole weights, not with {loaded} ones: answers differ a little")
    return load_export_source(ask.model, (*ask.sets, "backbone.quantization=none", "backbone.dtype=float32"))


TARGETS: Mapping[str, Callable[[ExportRequest], ExportReport]] = {
    "peft": _peft,
    "dense": _dense,
    "onnx": lambda ask: write_onnx(ask.target, _load_fp32(ask), ask.overwrite),
    "openvino": lambda ask: write_openvino(ask.target, _load_fp32(ask), ask.overwrite),
    "hub-folder": lambda ask: write_hub_folder(ask.target, ask.model, ask.licence, ask.overwrite),
}


def export_view(content: Mapping[str, Any]) -> RenderableType:
    """The files that were written, and what is to be known of them."""
    table = Table(title=content["folder"], title_justify="left")
    table.add_column("file", overflow="fold")
    table.add_column("KB", justify="right")
    for name, size in content["files"].items():
        table.add_row(name, f"{size / 1000:,.1f}")
    return Group(table, *(Text(line) for line in _told(content)))


def _told(content: Mapping[str, Any]) -> list[str]:
    lines = [_adapter(one) for one in content.get("adapters", ())]
    if "outputs" in content:
        lines.append(f"in: {', '.join(content['inputs'])}; out: {', '.join(content['outputs'])}")
        lines.append(f"at most {content['difference']:.1g} from torch on texts of several lengths")
    if "dtype" in content:
        lines.append(f"{content['name']} folded into {content['dtype']} weights")
    if "figures" in content:
        count, rows = content["figures"]["count"], content["figures"]["of"]
        lines.append(f"{count} figures on {rows} rows in the card" if count else "no figure in the card")
        lines.append("upload it by the hub's own client: hf upload NAME FOLDER")
    return lines


def _adapter(one: Mapping[str, Any]) -> str:
    told = f"{one['name']}: rank {one['rank']} in {one['layers']} layers"
    if "vllm" not in one:
        return told
    if one["vllm"]:
        return f"{told}; vLLM does not load it: {'; '.join(one['vllm'])}"
    return f"{told}; vLLM loads it with --max-lora-rank {one['max_lora_rank']} or more"
