"""Claims about 4-bit and 8-bit backbones of every family: their layers are wrapped, learn, and come back the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from conftest import FAMILIES, Make, save_backbone
from mixtures import TEXTS, mixture, tokens, written
from safetensors.torch import load_file

from experts.errors import Fault
from experts.gated_linear import GatedLinear
from moe.checkpoints.mixture import read_mixture
from moe.inference.predictor import Predictor
from moe.inference.stream import predict_texts
from moe.model.backbone import load_backbone
from moe.runs.workspace import Workspace

KINDS = {"nf4": Linear4bit, "int8": Linear8bitLt}


@pytest.fixture(params=[f"{family}-{kind}" for family in FAMILIES for kind in KINDS])
def work(request: pytest.FixtureRequest, make_work: Make, tmp_path: Path) -> Workspace:
    """A run on a tiny backbone of each family in each kind of few bits."""
    family, _, kind = request.param.rpartition("-")
    folder = save_backbone(tmp_path / family, family)
    return make_work(backbone={"name": str(folder), "quantization": kind})


def kind_of(work: Workspace) -> type[torch.nn.Module]:
    return KINDS[work.run.backbone.quantization]


def test_layers_are_wrapped_and_every_expert_gets_gradients(work: Workspace) -> None:
    model = mixture(load_backbone(work.run.backbone), work)
    wrapped = [one for one in model.modules() if isinstance(one, GatedLinear)]
    assert len(wrapped) >= 4
    assert all(type(one.base) is kind_of(work) for one in wrapped)
    model.train()(**tokens(model)).pooled.float().square().sum().backward()
    for name in model.bank.routed_experts:
        grads = {key: p.grad for key, p in model.bank.adapter_parameters(name).items()}
        assert all(grad is not None and grad.isfinite().all() for grad in grads.values())
        assert sum(float(grad.abs().sum()) for key, grad in grads.items() if grad is not None and "lora_B" in key) > 0


def test_no_weight_of_the_backbone_is_saved_and_a_copy_answers_the_same(work: Workspace, tmp_path: Path) -> None:
    backbone = load_backbone(work.run.backbone)
    folder = written(tmp_path / "mixture", backbone, work)
    for path in folder.rglob("*.safetensors"):
        assert all(".lora_" in key or path.parent == folder for key in load_file(path))
        assert path.stat().st_size < 100_000
    one, two = (read_mixture(folder)[0] for _ in range(2))
    assert any(isinstance(module, kind_of(work)) for module in one.modules())
    first, again, second = (predict_texts(TEXTS, Predictor(model, "{text}", 16)) for model in (one, one, two))
    for a, b, c in zip(first, again, second, strict=True):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)
        np.testing.assert_array_equal(a.probabilities, c.probabilities)
        assert np.isfinite(a.probabilities).all()


def test_a_backbone_of_which_nothing_was_quantized_is_refused(
    make_work: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_backbone(tmp_path / "bert", "bert")
    work = make_work(backbone={"name": str(folder), "quantization": "nf4"})
    monkeypatch.setattr("moe.model.backbone._quantization", lambda _: None)
    with pytest.raises(Fault, match=r"in nf4; found none"):
        load_backbone(work.run.backbone)
