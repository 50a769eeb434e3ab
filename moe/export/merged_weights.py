"""`--to dense`: one expert, or several weighed into one, folded into the backbone's weights as a transformers folder.

Weights of few bits are made 16-bit first, because folding into them would round most of an update away; who wants them
small nevertheless is told how much is lost. How experts are chosen is `moe.export.selection`'s.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.integrations.bitsandbytes import dequantize_bnb_weight
from transformers.pytorch_utils import Conv1D

from experts.atomic_io import atomic_folder, write_text
from experts.errors import Fault
from experts.expert_io import README
from experts.lora_delta import LowRankUpdate
from moe.console import info
from moe.export.hub import public_name
from moe.export.inference_spec import write_heads
from moe.export.peft import describe_spec
from moe.export.selection import AdapterSpec, ExportSource, adapter_update, pinned_update
from moe.model.backbone import BackboneSettings, load_backbone, read_backbone_config

DEQUANTIZED_DTYPE = torch.bfloat16
"""What weights of few bits become before an expert is folded into them: the precision that they were computed in."""


def write_merged_weights(
    out: Path, source: ExportSource, settings: BackboneSettings, choice: AdapterSpec, quantized: bool, overwrite: bool
) -> dict[str, Any]:
    """Write the folder, whole or not at all. The opened model is used up.

    Args:
        settings: that the backbone was loaded with.
        quantized: round the folded weights to the few bits that they were loaded in.

    Returns:
        `name`, `dtype`, `heads`, and with `quantized` also `lost`: the rounding as a share of the update.

    Raises:
        Fault: when the folder exists and `overwrite` is false, or cannot be written; or `quantized` is asked of weights
            that are not.
    """
    few = settings.quantization != "none"
    if quantized and not few:
        raise Fault("a backbone in 4 or 8 bits for --quantized", "one in whole weights", "leave --quantized out")
    if few and not quantized:
        info(f"the backbone is loaded in {settings.quantization}: folding there would round; writing 16-bit weights")
    found: dict[str, Any] = {"name": choice.name}
    with atomic_folder(out, overwrite) as temporary:
        found["heads"] = write_heads(temporary, source, choice)
        update = pinned_update(source.model, choice)
        whole = merge_into_backbone(source, choice)
        whole.config.use_cache = getattr(read_backbone_config(settings), "use_cache", None)
        if quantized:
            found["lost"] = _write_rounded(temporary, whole, source, settings, update)
            info(f"rounding to {settings.quantization} is {found['lost']:.0%} of the update's size; 16-bit loses less")
        else:
            whole.save_pretrained(temporary)
        source.model.loaded_backbone.tokenizer.save_pretrained(temporary)
        found["dtype"] = settings.quantization if quantized else str(whole.dtype).removeprefix("torch.")
        write_text(temporary / README, _readme(source, choice, found))
    return found


def merge_into_backbone(source: ExportSource, choice: AdapterSpec) -> PreTrainedModel:
    """The backbone, with its own head where it has one, and the choice in its weights; the mixture is used up."""
    model, head = source.model, source.model.loaded_backbone.lm_head
    whole: PreTrainedModel = head.model if head else model.backbone
    update = adapter_update(model, choice)
    shared = [name for name in model.bank.shared_experts if name in choice.weights]
    model.bank.disabled = tuple(shared)  # a shared expert by itself is not to be there twice
    if getattr(whole, "hf_quantizer", None) is not None:
        whole.dequantize(dtype=DEQUANTIZED_DTYPE)
        whole.to(DEQUANTIZED_DTYPE)  # type: ignore[arg-type]
    with model.bank.override_adapter(update):
        model.bank.set_gates(None)
        model.bank.merge_and_unload()
    return whole


def _write_rounded(
    folder: Path, whole: PreTrainedModel, source: ExportSource, settings: BackboneSettings, update: LowRankUpdate
) -> float:
    """Write the folded weights in few bits again; the rounding's size as a share of the update's."""
    with TemporaryDirectory(dir=folder.parent) as plain:
        whole.save_pretrained(plain)
        source.model.loaded_backbone.tokenizer.save_pretrained(plain)
        small = load_backbone(settings.model_copy(update={"name": plain, "revision": None}), lm_head=source.language)
        small.model.config.use_cache = whole.config.use_cache
        target = small.lm_head.model if small.lm_head else small.model
        lost = _lost(whole.base_model, target.base_model, update)
        target.config.name_or_path = public_name(source.model.loaded_backbone.id)
        target.save_pretrained(folder)
    return lost


def _lost(exact: nn.Module, rounded: nn.Module, update: LowRankUpdate) -> float:
    """‖rounded − exact‖ over ‖update‖, both over the layers that the update touches."""
    error, size = torch.zeros(()), torch.zeros(())
    for path, (a, b) in update.layers.items():
        whole, few = _weight(exact.get_submodule(path)), _weight(rounded.get_submodule(path))  # (D_out, D_in)
        error += (few.float() - whole.float()).cpu().square().sum()
        size += (update.scaling * b @ a).square().sum()
    return float((error / size.clamp(min=1e-30)).sqrt())


def _weight(layer: nn.Module) -> Tensor:
    weight: Tensor = dequantize_bnb_weight(layer.weight, getattr(layer, "state", None))  # type: ignore[arg-type]
    return weight.T if isinstance(layer, Conv1D) else weight  # (D_out, D_in)


def _readme(source: ExportSource, choice: AdapterSpec, found: dict[str, Any]) -> str:
    kind = "AutoModelForCausalLM" if source.causal else "AutoModelForMaskedLM" if source.language else "AutoModel"
    always = [name for name in source.model.bank.shared_experts if name not in choice.weights]
    shared = f" and the shared expert {', '.join(always)}" if always else ""
    read = "`heads.safetensors` holds the heads, `reading.json` says how they are read.\n" if found["heads"] else ""
    return f"""---
library_name: transformers
base_model: {public_name(source.model.loaded_backbone.id)}
tags: [finance, finmoe]
---
# {choice.name}, folded

`{public_name(source.model.loaded_backbone.id)}` with {describe_spec(choice)}{shared} in its weights ({found["dtype"]}).
It computes what the mixture does when it is pinned there; the router is not in it.

```python
from transformers import {kind}

model = {kind}.from_pretrained("FOLDER")
```

{read}"""
