"""Tests of 4-bit and 8-bit backbones of every model family: wrapping, gradients, saving and loading."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from conftest import Make, family_params, save_backbone
from mixtures import TEXTS, random_mixture, save_random_mixture, tokenize_texts
from safetensors.torch import load_file

from experts.errors import Fault
from experts.gated_linear import GatedLinear
from moe.checkpoints.mixture import read_mixture
from moe.inference.stream import predict_texts
from moe.inference.torch_predictor import TorchPredictor
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

KINDS = {"nf4": Linear4bit, "int8": Linear8bitLt}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each quantization in turn."""
    return request.param


@pytest.fixture(params=family_params("bert", "gpt2", "llama"))
def work(request: pytest.FixtureRequest, kind: str, make_work: Make, tmp_path: Path) -> Workspace:
    """A run on a tiny backbone of each family in each quantization."""
    family = request.param
    folder = save_backbone(tmp_path / family, family)
    return make_work(backbone={"name": str(folder), "quantization": kind})


def layer_type(work: Workspace) -> type[torch.nn.Module]:
    return KINDS[work.run.backbone.quantization]


def test_quantized_layers_are_wrapped_and_all_experts_get_gradients(work: Workspace) -> None:
    model = random_mixture(load_backbone(work.run.backbone), work)
    wrapped = [module for module in model.modules() if isinstance(module, GatedLinear)]
    assert len(wrapped) >= 4
    assert all(type(layer.base) is layer_type(work) for layer in wrapped)
    model.train()(**tokenize_texts(model)).pooled.float().square().sum().backward()
    for name in model.bank.routed_experts:
        grads = {key: p.grad for key, p in model.bank.adapter_parameters(name).items()}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
        assert sum(float(grad.abs().sum()) for key, grad in grads.items() if grad is not None and "lora_B" in key) > 0


def test_quantized_mixture_is_saved_without_backbone_and_predicts_the_same(work: Workspace, tmp_path: Path) -> None:
    backbone = load_backbone(work.run.backbone)
    folder = save_random_mixture(tmp_path / "mixture", backbone, work)
    for path in folder.rglob("*.safetensors"):
        assert all(".lora_" in key or path.parent == folder for key in load_file(path))
        assert path.stat().st_size < 100_000
    original, copy = (read_mixture(folder)[0] for _ in range(2))
    assert any(isinstance(module, layer_type(work)) for module in original.modules())
    first, again, second = (
        predict_texts(TEXTS, TorchPredictor(model, "{text}", 16)) for model in (original, original, copy)
    )
    for a, b, c in zip(first, again, second, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
        np.testing.assert_array_equal(a.probabilities, c.probabilities)
        assert np.isfinite(a.probabilities).all()


def test_backbone_without_any_quantized_layer_is_refused(
    make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_backbone(tmp_path / "bert", "bert")
    work = make_work(backbone={"name": str(folder), "quantization": "nf4"})
    monkeypatch.setattr("moe.model.backbone.quantization_config", lambda _: None)
    with pytest.raises(Fault, match=r"in nf4; found none"):
        load_backbone(work.run.backbone)
