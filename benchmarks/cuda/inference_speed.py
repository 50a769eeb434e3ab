"""Speed of inference on a GPU: each routing beside the bare backbone, PEFT, a pass per expert, and torch.compile."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from models import Bench, Precision
from paired_timing import Batch, Ratio, build_untrained_with_card, compare, forward_all
from peft import LoraConfig, get_peft_model
from routing_cost import record_batches, set_gates
from scale import measure_peak, operations_per_token
from torch import Tensor

from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import BackboneSettings, load_backbone
from moe.model.backbone_ops import compile_layers
from moe.model.mixture import Mixture
from moe.model.mode import Routing

EXPERTS, RANK = 5, 16
TARGETS = ["query", "key", "value", "dense"]
"""Names of the adapted layers of a BERT, for PEFT."""
SHARE_OF_PEAK = 0.45
"""Wanted share of the measured matmul peak of the bare backbone in bfloat16."""
ROUTINGS: dict[str, tuple[Routing, bool, str]] = {
    "hard": ("hard", False, "≤ 1.03"),
    "pruned": ("pruned", False, "≤ 1.10"),
    "pinned": ("soft", True, "≤ 1.03"),
}
"""By name: the routing, whether a domain is given, and the wanted ratio."""


class TokenizedPredictor(TorchPredictor):
    """A predictor whose texts are tokens already, so that the GPU is timed and not the tokenizer.

    Args:
        ids: token ids of each text.
    """

    def __init__(self, model: Mixture, ids: Sequence[list[int]], routing: Routing, batch_tokens: int) -> None:
        super().__init__(model, "{text}", len(ids[0]), routing, batch_tokens=batch_tokens)
        self.ids = list(ids)

    def _tokenize(
        self, texts: Sequence[str], targets: Sequence[str | None] | None = None
    ) -> tuple[list[list[int]], np.ndarray]:
        return self.ids, np.arange(len(self.ids))


def measure_inference_speed(bench: Bench, quantized: bool) -> Iterator[dict[str, Any]]:
    """Compare each routing with the bare backbone in the same precision, on batches of 32,768 tokens.

    Args:
        quantized: NF4 instead of bfloat16; the bare backbone then has the same 4-bit layers of bitsandbytes.
    """
    precision = bench.precisions[2 if quantized else 1]
    if precision.missing:
        yield {"precision": precision.name, "skipped": precision.missing}
        return
    texts, length, count, rounds = (256, 128, 8, 7) if bench.size == "full" else (4, 16, 2, 1)
    settings = backbone_settings(bench, precision)
    bare = load_backbone(settings).model.eval()
    random = torch.Generator().manual_seed(0)
    ids = torch.randint(10, bare.config.vocab_size, (texts * count, length), generator=random)  # (N, T)
    batches: list[Batch] = [
        (part.to(bare.device), torch.ones_like(part, device=bare.device)) for part in ids.split(texts)
    ]
    bare_forward = forward_all(bare, batches)
    model = build_untrained_with_card(EXPERTS, RANK, settings)[0]
    soft = compare("soft: bare", forward_all(model, batches), bare_forward, "≤ 1.10", rounds)
    if not quantized:
        yield describe_peak(precision, ids.numel() * operations_per_token(bare), soft.other, bare.device)
    yield describe(precision, soft, ids.numel())
    set_gates(model, (0.97,))
    for name, (routing, pinned, wanted) in ROUTINGS.items():
        predictor = TokenizedPredictor(model, ids.tolist(), routing, batch_tokens=texts * length)
        unread = [""] * len(ids)
        pin = [model.domains[0].name] * len(ids) if pinned else None
        for _ in range(2):  # the second time, the weights are folded
            routed = record_batches(predictor, unread, pin)
        ours = partial(predictor.score, unread, pin)
        yield describe(
            precision, compare(f"{name}: bare", ours, forward_all(bare, routed), wanted, rounds), ids.numel()
        )
    yield from _compare_with_peft(settings, precision, model, batches, rounds)
    if bench.device == "cuda" and not quantized:
        yield _compare_compiled(settings, precision, model, batches, rounds)


def backbone_settings(bench: Bench, precision: Precision) -> BackboneSettings:
    """Return the settings of the encoder of 110 million weights in a precision, without a trunk."""
    return BackboneSettings(
        name=bench.backbone("bert-110m"),
        device=precision.device,
        dtype="bfloat16",
        quantization="nf4" if precision.quantization == "nf4" else "none",
        trunk_depth=0,
        max_length=128,
    )


def equal_batches(ids: Tensor, size: int, device: torch.device) -> list[Batch]:
    """Return token ids (N, T) as batches on a device, without padding."""
    return [(part.to(device), torch.ones_like(part, device=device)) for part in ids.split(size)]


def describe(precision: Precision, ratio: Ratio, tokens: int) -> dict[str, Any]:
    """Return a ratio as a comparison; it fails nothing, since a time is no test."""
    figures = {"ratio": ratio.ratio, "A/A": ratio.control, "tokens_per_second": round(tokens / ratio.ours)}
    wanted = {} if ratio.target == "–" else {"wanted": ratio.target}
    return {"precision": precision.name, "compared": ratio.name} | figures | wanted


def describe_peak(precision: Precision, operations: int, seconds: float, device: torch.device) -> dict[str, Any]:
    """Return the bare backbone's share of the measured matmul peak.

    Args:
        operations: of the timed passes.
        seconds: that they took.
    """
    peak = measure_peak(torch.bfloat16, device)
    share = operations / seconds / peak
    return {"precision": precision.name, "bare, share of matmul peak": share, "wanted": f"≥ {SHARE_OF_PEAK}"} | {
        "TFLOP/s at the peak": peak / 1e12
    }


def peft_lora() -> LoraConfig:
    """Return a LoRA of the experts' rank on all linear layers of a BERT."""
    return LoraConfig(r=RANK, lora_alpha=RANK, target_modules=TARGETS, exclude_modules=r".*pooler.*")


def _compare_with_peft(
    settings: BackboneSettings, precision: Precision, model: Mixture, batches: Sequence[Batch], rounds: int
) -> Iterator[dict[str, Any]]:
    """Compare soft routing with PEFT's adapters by row, and with a pass of each expert."""
    peft: Any = get_peft_model(load_backbone(settings).model, peft_lora(), adapter_name="0")
    for i in range(1, EXPERTS):
        peft.add_adapter(str(i), peft_lora())
    peft.eval()

    @torch.inference_mode()
    def by_row() -> None:
        for ids, mask in batches:
            names = [str(i % EXPERTS) for i in range(len(ids))]
            peft(input_ids=ids, attention_mask=mask, adapter_names=names)

    @torch.inference_mode()
    def by_expert() -> None:
        for i in range(EXPERTS):
            peft.set_adapter(str(i))
            for ids, mask in batches:
                peft(input_ids=ids, attention_mask=mask)

    ours, tokens = forward_all(model, batches), sum(ids.numel() for ids, _ in batches)
    for name, other, wanted in (("PEFT adapter_names", by_row, "≤ 0.71"), ("a pass per expert", by_expert, "–")):
        yield describe(precision, compare(f"soft: {name}", ours, other, wanted, rounds), tokens)


def _compare_compiled(
    settings: BackboneSettings, precision: Precision, model: Mixture, batches: Sequence[Batch], rounds: int
) -> dict[str, Any]:
    """Compare a mixture with compiled layers with the same one without, on batches of one fixed size."""
    compiled = build_untrained_with_card(EXPERTS, RANK, settings)[0]
    compile_layers(compiled.backbone)
    name, tokens = "soft, torch.compile: soft", sum(ids.numel() for ids, _ in batches)
    ratio = compare(name, forward_all(compiled, batches), forward_all(model, batches), "–", rounds)
    return describe(precision, ratio, tokens)
