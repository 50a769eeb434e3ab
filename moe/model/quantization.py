"""Backbones in 4 or 8 bits with bitsandbytes: how they are loaded, and checks of the result."""

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from experts.errors import Fault


def quantization_config(quantization: str) -> BitsAndBytesConfig:
    """Return how transformers quantizes a model with bitsandbytes: `nf4`, or `int8`."""
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.bfloat16, **nf4)


def check_quantized(model: PreTrainedModel, name: str, quantization: str) -> None:
    """Check that a backbone that was loaded quantized has quantized layers.

    Raises:
        Fault: if it has none.
    """
    from bitsandbytes.nn.modules import Linear4bit, Linear8bitLt  # slow to import, and most runs do not need it

    if not any(isinstance(module, Linear4bit | Linear8bitLt) for module in model.modules()):
        raise Fault(
            f"layers of {name!r} in {quantization}",
            "none that bitsandbytes supports",
            "set backbone.quantization to none, or use another backbone",
        )


def prevent_repacking(model: PreTrainedModel) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for AVX-512 in the first forward pass on a CPU.

    Repacking rounds their scales to bfloat16, fails on narrow layers, and makes a copy's output differ from the
    original's.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            setattr(module, "support_avx512bf16_for_cpu", False)  # noqa: B010 — a Module, to the type checker
