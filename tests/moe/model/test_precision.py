"""Tests of bfloat16 and 4-bit backbones: training, saving and prediction."""

from pathlib import Path

import pytest
import torch
from conftest import Make
from safetensors.torch import load_file

from moe.checkpoints.mixture import read_mixture
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.training.expert_steps import train_domain
from moe.training.steps import merge_experts, train_router


def trained(make_work: Make, **backbone: str) -> Path:
    work = make_work(backbone=backbone)
    for domain in work.run.domains:
        train_domain(work, domain)
    merge_experts(work)
    train_router(work)
    return work.out / "moe-joint"


def test_bfloat16_backbone_trains_experts_in_fp32(make_work: Make) -> None:
    folder = trained(make_work, dtype="bfloat16")
    weights = load_file(folder / "experts" / "news" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    model, _ = read_mixture(folder)
    assert model.backbone.dtype == torch.bfloat16
    assert 0.99 < predict_texts(["profit rose"], TorchPredictor(model, "{text}", 16))[0].probabilities.sum() < 1.01


def test_nf4_mixture_is_trained_and_saved_without_backbone_weights(make_work: Make) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    folder = trained(make_work, quantization="nf4")
    model, _ = read_mixture(folder)
    quantized = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(quantized) >= 12
    assert len(model.bank.adapters["news"].layers) == 6
    for path in folder.rglob("*.safetensors"):
        assert not [key for key in load_file(path) if "quant" in key or "embeddings" in key]
    again, _ = read_mixture(folder)
    a, b = (
        predict_texts(["profit rose"], TorchPredictor(mixture, "{text}", 16))[0].probabilities
        for mixture in (model, again)
    )
    assert a.tolist() == b.tolist()
