"""Speed of inference: the mixture against its bare backbone, PEFT, a pipeline, and three passes per text."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from paired_timing import (
    Batch,
    Ratio,
    build_untrained,
    compare,
    flops_floor,
    forward_all,
    peft_config,
    tokenize_batches,
)
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, pipeline

from moe.inference.torch_predictor import TorchPredictor, token_budget
from moe.model.backbone import Backbone, BackboneSettings, load_backbone
from moe.model.backbone_files import shipped_folder
from moe.model.backbone_ops import compile_layers


def measure_inference(texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """Compare soft and hard inference with the bare backbone, PEFT, and three passes per text."""
    bare = load_backbone(BackboneSettings(dtype=dtype))
    batches = tokenize_batches(bare, texts[:160])
    backbone_forward = forward_all(bare.model, batches)
    limits = ("1.25", "1.17", "1.11") if dtype == "float32" else ("1.20", "1.14", "1.06")
    targets = {(5, 16, trunk): limit for trunk, limit in zip((0, 1, 3), limits, strict=True)} | {(5, 8, 3): "1.07"}
    targets |= {(e, 16, 1): f"{0.97 * flops_floor(e, 16, 1):.2f}" for e in (2, 8)}
    for (experts, rank, trunk), target in targets.items():
        ours = forward_all(build_untrained(experts, rank, trunk, dtype), batches)
        name = f"soft, E = {experts}, r = {rank}, m = {trunk}, {dtype}: bare backbone"
        yield compare(name, ours, backbone_forward, f"≤ {target}", rounds, flops_floor(experts, rank, trunk))
    yield compare_compiled(batches, dtype, rounds)
    yield compare_hard(bare, texts[:500], dtype, -(-rounds // 3))
    yield compare_three_passes(bare, texts[:200], dtype)
    yield from compare_peft(bare, texts[:500], dtype, -(-rounds // 3))


def compare_compiled(batches: Sequence[Batch], dtype: str, rounds: int) -> Ratio:
    """Compare a mixture with compiled layers with the same mixture without; compilation itself is not timed."""
    model, eager = build_untrained(5, 16, 1, dtype), build_untrained(5, 16, 1, dtype)
    compile_layers(model.backbone)
    name = f"soft, E = 5, m = 1, {dtype}, compiled: not compiled"
    return compare(name, forward_all(model, batches), forward_all(eager, batches), "–", rounds)


def compare_hard(bare: Backbone, texts: Sequence[str], dtype: str, rounds: int) -> Ratio:
    """Compare hard inference with the bare backbone, tokenization included in both."""
    budget = token_budget(bare.model.device, bare.model.dtype)
    predictor = TorchPredictor(build_untrained(5, 16, 3, dtype), "{text}", 128, "hard", batch_tokens=budget)
    return compare(
        f"hard, E = 5, m = 3, {dtype}: bare backbone",
        lambda: predictor.score(texts),
        lambda: forward_all(bare.model, tokenize_batches(bare, texts))(),
        "≤ 1.05",
        rounds,
    )


def compare_three_passes(bare: Backbone, texts: Sequence[str], dtype: str) -> Ratio:
    """Compare with FinSA-MoE's inference: a pass of each of two experts and of the router, one text padded to 512."""
    predictor = TorchPredictor(build_untrained(2, 16, 1, dtype), "{text}", 128)
    sample = texts[::50]

    @torch.inference_mode()
    def three_passes() -> None:
        for text in sample:
            inputs = bare.tokenizer(text, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
            for _ in range(3):
                bare.model(**inputs.to(bare.model.device))

    name = f"soft, E = 2, {dtype}: three passes padded to 512"
    measured = compare(name, lambda: predictor.score(texts), three_passes, "", 2)
    scaled = measured.other * len(texts) / len(sample)
    return Ratio(name, measured.ours, scaled, measured.control, "≤ 1/75" if dtype == "float32" else "≤ 1/150")


def compare_peft(bare: Backbone, texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """Compare with PEFT's adapters per row: soft inference on equal batches, hard inference with tokenization."""
    model = get_peft_model(load_backbone(BackboneSettings(dtype=dtype)).model, peft_config(), adapter_name="0")
    for i in range(1, 5):
        model.add_adapter(str(i), peft_config())
    model.eval()

    @torch.no_grad()
    def forward_rows(batches: Sequence[Batch]) -> None:
        for ids, mask in batches:
            model(input_ids=ids, attention_mask=mask, adapter_names=[str(i % 5) for i in range(len(ids))])

    batches, ours = tokenize_batches(bare, texts), build_untrained(5, 16, 0, dtype)
    name = f"E = 5, m = 0, {dtype}: PEFT adapter_names"
    yield compare(f"soft, {name}", forward_all(ours, batches), lambda: forward_rows(batches), "≤ 1/1.4", rounds)
    predictor = TorchPredictor(ours, "{text}", 128, "hard")
    yield compare(
        f"hard, {name}",
        lambda: predictor.score(texts),
        lambda: forward_rows(tokenize_batches(bare, texts)),
        "≤ 1/1.4",
        rounds,
    )


def measure_pipeline(texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """Compare with transformers' pipeline in fp32 on one merged expert, at its default batch size and at 32.

    Args:
        dtype: of our frozen backbone.
    """
    base = AutoModelForSequenceClassification.from_pretrained(shipped_folder(), num_labels=3)
    merged: Any = get_peft_model(base, peft_config()).merge_and_unload()
    predictor = TorchPredictor(build_untrained(5, 16, 1, dtype), "{text}", 128)
    tokenizer: Any = predictor.tokenizer  # pipeline's overloads name other classes of tokenizers
    classify = pipeline(
        "text-classification", model=merged, tokenizer=tokenizer, device=predictor.model.backbone.device
    )
    for size, target in ((1, "≤ 1/4"), (32, "≤ 1/2.5")):
        name = f"soft, E = 5, m = 1, {dtype}: transformers' pipeline, batch_size = {size}"
        other = partial(classify, list(texts), batch_size=size)
        yield compare(name, lambda: predictor.score(texts), other, target, rounds)
