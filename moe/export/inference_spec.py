"""Inference specification `reading.json`: how other programs turn an exported model's outputs into predictions.

It holds labels, tasks, prompt template, maximum length and temperatures.
"""

from pathlib import Path

from experts.atomic_io import write_json
from experts.safetensors_io import save_tensors
from moe.export.selection import AdapterSpec, ExportSource, heads_for
from moe.inference.spec import InferenceSpec
from moe.inference.torch_predictor import build_inference_spec

SPEC_FILE, HEADS_FILE = "reading.json", "heads.safetensors"


def build_export_spec(source: ExportSource) -> InferenceSpec:
    """Build the inference specification of a model to export, with the domains that it was trained on."""
    spec = build_inference_spec(source.model, source.template, source.max_length, source.calibration)
    return spec.model_copy(update={"domains": spec.trained_domains})


def write_heads(folder: Path, source: ExportSource, spec: AdapterSpec) -> bool:
    """Write the heads of an adapter and the inference specification; return whether there are heads."""
    heads = heads_for(source.model, spec)
    if heads is None:
        return False
    save_tensors(folder / HEADS_FILE, heads.state_dict())
    write_json(folder / SPEC_FILE, build_export_spec(source).model_dump(mode="json"))
    return True
