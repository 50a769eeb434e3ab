"""`--to dense`: an expert, or several merged into one, merged into the backbone's weights as a transformers folder.

A quantized backbone is dequantized to 16 bits first, because merging into quantized weights would round most of the
update away; if it is quantized again on request, the loss is reported.
"""

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from experts.atomic_io import atomic_folder, write_text
from experts.errors import Fault
from experts.expert_io import README
from experts.json_io import OMIT_NONE
from experts.lora_delta import LowRankUpdate
from moe.console import info
from moe.export.inference_spec import write_heads
from moe.export.peft import describe_spec
from moe.export.selection import AdapterSpec, ExportSource, adapter_update, pinned_update
from moe.model.backbone import BackboneSettings, load_backbone, read_backbone_config
from moe.model.backbone_files import public_name

DEQUANTIZED_DTYPE = torch.bfloat16
"""Dtype of dequantized weights: the one in which the quantized layers compute."""


@dataclass(frozen=True, kw_only=True)
class MergedWeights:
    """A backbone with merged experts that was written.

    Args:
        name: of the expert or the merge.
        heads: whether classification heads are beside it.
        lost: rounding error of quantized weights, relative to the norm of the update; None if they are not quantized.
        dtype: of the weights, or the kind of quantization.
    """

    name: str
    heads: bool
    lost: float | None = field(default=None, metadata=OMIT_NONE)
    dtype: str


def write_merged_weights(
    out: Path, source: ExportSource, settings: BackboneSettings, spec: AdapterSpec, quantized: bool, overwrite: bool
) -> MergedWeights:
    """Write the folder atomically. The loaded model cannot be used afterwards.

    Args:
        settings: settings that the backbone was loaded with.
        quantized: quantize the merged weights as the backbone was.

    Raises:
        Fault: if the folder exists and `overwrite` is false, it cannot be written, or `quantized` is requested for a
            backbone that is not quantized.
    """
    is_quantized = settings.quantization != "none"
    if quantized and not is_quantized:
        raise Fault("a backbone in 4 or 8 bits for --quantized", "a backbone without quantization", "omit --quantized")
    if is_quantized and not quantized:
        info(f"the backbone is quantized ({settings.quantization}): to avoid rounding, the merged weights have 16 bits")
    lost = None
    with atomic_folder(out, overwrite) as temporary:
        heads = write_heads(temporary, source, spec)
        update = pinned_update(source.model, spec)
        merged = merge_into_backbone(source, spec)
        merged.config.use_cache = getattr(read_backbone_config(settings), "use_cache", None)
        if quantized:
            lost = _write_quantized(temporary, merged, source, settings, update)
            info(
                f"the rounding error of {settings.quantization} is {lost:.0%} of the update's norm; "
                "16-bit weights lose less"
            )
        else:
            merged.save_pretrained(temporary)
        source.model.loaded_backbone.tokenizer.save_pretrained(temporary)
        dtype = settings.quantization if quantized else str(merged.dtype).removeprefix("torch.")
        written = MergedWeights(name=spec.name, heads=heads, lost=lost, dtype=dtype)
        write_text(temporary / README, _readme(source, spec, written))
    return written


def merge_into_backbone(source: ExportSource, spec: AdapterSpec) -> PreTrainedModel:
    """Merge the experts of a spec and the shared ones into the backbone; return it with its LM head, if it has one."""
    model, head = source.model, source.model.loaded_backbone.lm_head
    backbone: PreTrainedModel = head.model if head else model.backbone
    update = adapter_update(model, spec)
    shared = [name for name in model.bank.shared_experts if name not in spec.weights]  # none is added twice
    if getattr(backbone, "hf_quantizer", None) is not None:
        backbone.dequantize(dtype=DEQUANTIZED_DTYPE)
        nn.Module.to(backbone, DEQUANTIZED_DTYPE)  # transformers' own `to` has no usable type
    with model.bank.replacement_adapter(update) as merged:
        model.bank.merge_and_unload((*shared, merged))
    return backbone


def _write_quantized(
    folder: Path, merged: PreTrainedModel, source: ExportSource, settings: BackboneSettings, update: LowRankUpdate
) -> float:
    """Quantize the merged weights and write them; return the norm of the rounding error relative to the update's."""
    with TemporaryDirectory(dir=folder.parent) as unquantized:
        merged.save_pretrained(unquantized)
        source.model.loaded_backbone.tokenizer.save_pretrained(unquantized)
        reloaded = load_backbone(
            settings.model_copy(update={"name": unquantized, "revision": None}), lm_head=source.language
        )
        reloaded.model.config.use_cache = merged.config.use_cache
        target = reloaded.lm_head.model if reloaded.lm_head else reloaded.model
        lost = _rounding_error(merged.base_model, target.base_model, update)
        target.config.name_or_path = public_name(source.model.loaded_backbone.id.name)
        target.save_pretrained(folder)
    return lost


def _rounding_error(exact: nn.Module, rounded: nn.Module, update: LowRankUpdate) -> float:
    """Return ‖rounded − exact‖ / ‖update‖ over the layers of the update."""
    error, size = torch.zeros(()), torch.zeros(())
    for path, (a, b) in update.layers.items():
        exact_weight = _weight(exact.get_submodule(path))  # (D_out, D_in)
        rounded_weight = _weight(rounded.get_submodule(path))  # (D_out, D_in)
        error += (rounded_weight.float() - exact_weight.float()).cpu().square().sum()
        size += (update.scaling * b @ a).square().sum()
    return float((error / size.clamp(min=1e-30)).sqrt())


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = dequantize_bnb_weight(layer.get_parameter("weight"), getattr(layer, "state", None))
    return weight.T if isinstance(layer, Conv1D) else weight  # (D_out, D_in)


def _readme(source: ExportSource, spec: AdapterSpec, written: MergedWeights) -> str:
    kind = "AutoModelForCausalLM" if source.causal else "AutoModelForMaskedLM" if source.language else "AutoModel"
    always_on = [name for name in source.model.bank.shared_experts if name not in spec.weights]
    shared = f" and the shared expert {', '.join(always_on)}" if always_on else ""
    heads = ""
    if written.heads:
        heads = "`heads.safetensors` contains the classification heads, `reading.json` specifies how to apply them.\n"
    return f"""---
library_name: transformers
base_model: {public_name(source.model.loaded_backbone.id.name)}
tags: [finance, finmoe]
---
# {spec.name}, merged

`{public_name(source.model.loaded_backbone.id.name)}` with {describe_spec(spec)}{shared} merged into its weights
({written.dtype}). It computes the same as the mixture restricted to it; the router is not included.

```python
from transformers import {kind}

model = {kind}.from_pretrained("FOLDER")
```

{heads}"""
