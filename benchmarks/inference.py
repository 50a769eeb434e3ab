"""Answers: the mixture beside its bare backbone, PEFT, a pipeline and three passes a text."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from paired_timing import Batch, Ratio, batches, compare, floor, mixture, peft_config, through
from peft import get_peft_model
from transformers import AutoModelForSequenceClassification, pipeline

from moe.inference.predictor import Predictor
from moe.model.backbone import Backbone, BackboneSettings, load_backbone, shipped_folder, token_budget
from moe.model.backbone_ops import compile_layers


def inference(texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """Soft and hard answers beside the bare backbone, PEFT, a pipeline, and three passes a text."""
    bare = load_backbone(BackboneSettings(dtype=dtype))
    some = batches(bare, texts[:160])
    plain = through(bare.model, some)
    limits = ("1.25", "1.17", "1.11") if dtype == "float32" else ("1.20", "1.14", "1.06")
    soft = {(5, 16, trunk): limit for trunk, limit in zip((0, 1, 3), limits, strict=True)} | {(5, 8, 3): "1.07"}
    soft |= {(e, 16, 1): f"{0.97 * floor(e, 16, 1):.2f}" for e in (2, 8)}
    for (experts, rank, trunk), target in soft.items():
        ours = through(mixture(experts, rank, trunk, dtype), some)
        name = f"soft, E = {experts}, r = {rank}, m = {trunk}, {dtype}: bare backbone"
        yield compare(name, ours, plain, f"≤ {target}", rounds, floor(experts, rank, trunk))
    yield compiled(some, dtype, rounds)
    yield hard(bare, texts[:500], dtype, -(-rounds // 3))
    yield three_passes(bare, texts[:200], dtype)
    yield from peft_rows(bare, texts[:500], dtype, -(-rounds // 3))


def compiled(some: Sequence[Batch], dtype: str, rounds: int) -> Ratio:
    """The same mixture with its layers compiled, once that is done, beside itself uncompiled."""
    model, eager = mixture(5, 16, 1, dtype), mixture(5, 16, 1, dtype)
    compile_layers(model.backbone)
    return compare(
        f"soft, E = 5, m = 1, {dtype}, compiled: not compiled", through(model, some), through(eager, some), "–", rounds
    )


def hard(bare: Backbone, some: Sequence[str], dtype: str, rounds: int) -> Ratio:
    """Hard answers, tokens included, beside the bare backbone, tokens included."""
    predictor = Predictor(
        mixture(5, 16, 3, dtype), "{text}", 128, "hard", batch_tokens=token_budget(bare.model.device, bare.model.dtype)
    )
    return compare(
        f"hard, E = 5, m = 3, {dtype}: bare backbone",
        lambda: predictor.score(some),
        lambda: through(bare.model, batches(bare, some))(),
        "≤ 1.05",
        rounds,
    )


def three_passes(bare: Backbone, some: Sequence[str], dtype: str) -> Ratio:
    """FinSA-MoE's way: two experts' passes and the router's, every text padded to 512, one at a time."""
    predictor = Predictor(mixture(2, 16, 1, dtype), "{text}", 128)
    few = some[::50]

    @torch.inference_mode()
    def slow() -> None:
        for text in few:
            one = bare.tokenizer(text, padding="max_length", max_length=512, truncation=True, return_tensors="pt")
            for _ in range(3):
                bare.model(**one.to(bare.model.device))

    once = compare(f"soft, E = 2, {dtype}: three passes padded to 512", lambda: predictor.score(some), slow, "", 2)
    scaled = once.other * len(some) / len(few)
    return Ratio(once.name, once.ours, scaled, once.control, "≤ 1/75" if dtype == "float32" else "≤ 1/150")


def peft_rows(bare: Backbone, texts: Sequence[str], dtype: str, rounds: int) -> Iterator[Ratio]:
    """PEFT's row-wise adapters beside our soft mixture on the same batches; beside our hard one, tokens included."""
    model = get_peft_model(load_backbone(BackboneSettings(dtype=dtype)).model, peft_config(), adapter_name="0")
    for i in range(1, 5):
        model.add_adapter(str(i), peft_config())
    model.eval()

    @torch.no_grad()
    def rows(some: Sequence[Batch]) -> None:
        for ids, mask in some:
            model(input_ids=ids, attention_mask=mask, adapter_names=[str(i % 5) for i in range(len(ids))])

    some, ours = batches(bare, texts), mixture(5, 16, 0, dtype)
    name = f"E = 5, m = 0, {dtype}: PEFT adapter_names"
    yield compare(f"soft, {name}", through(ours, some), lambda: rows(some), "≤ 1/1.4", rounds)
    predictor = Predictor(ours, "{text}", 128, "hard")
    yield compare(
        f"hard, {name}", lambda: predictor.score(texts), lambda: rows(batches(bare, texts)), "≤ 1/1.4", rounds
    )


def pipelines(some: Sequence[str], rounds: int) -> Iterator[Ratio]:
    """transformers' own pipeline on one folded expert, its defaults and batches of 32; ours in its own precision."""
    base = AutoModelForSequenceClassification.from_pretrained(shipped_folder(), num_labels=3)
    folded: Any = get_peft_model(base, peft_config()).merge_and_unload()
    predictor = Predictor(mixture(5, 16, 1, "auto"), "{text}", 128)
    classify = pipeline(
        "text-classification", model=folded, tokenizer=predictor.tokenizer, device=predictor.model.backbone.device
    )
    for size, target in ((1, "≤ 1/5"), (32, "≤ 1/3")):
        name = f"soft, E = 5, m = 1: transformers' pipeline, batch_size = {size}"
        yield compare(
            name, lambda: predictor.score(some), lambda size=size: classify(some, batch_size=size), target, rounds
        )
