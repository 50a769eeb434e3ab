"""Tests of sharding: no effect in a single process, and gradient norms and clipping as in torch."""

import pytest
import torch
from conftest import Make
from mixtures import random_mixture
from torch import nn

from moe.distributed import clip_gradients, gradient_norm
from moe.model.backbone import load_backbone
from moe.training.fsdp import distribute_like, full_tensors, gather_experts, shard


def test_sharding_has_no_effect_in_a_single_process(make_work: Make) -> None:
    model = random_mixture(load_backbone(make_work().run.backbone), make_work())
    before = model.trained_state()
    shard(model)
    gather_experts(model)
    after = model.trained_state()
    assert all(tensor is after[name] for name, tensor in full_tensors(after).items())
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())
    assert model.bank.route.caching
    value = torch.ones(3)
    assert distribute_like(value, torch.zeros(3)) is value


def test_clip_gradients_agrees_with_torch() -> None:
    parameters, reference = (nn.ParameterList([torch.ones(4), torch.ones(2, 3), torch.ones(5)]) for _ in range(2))
    for tensors in (parameters, reference):
        tensors[0].grad, tensors[1].grad = torch.arange(4.0), torch.full((2, 3), -2.0)
    expected = nn.utils.clip_grad_norm_(reference.parameters(), 1.5)
    assert gradient_norm(parameters).item() == pytest.approx(expected.item())
    assert clip_gradients(parameters.parameters(), 1.5).item() == pytest.approx(expected.item())
    for a, b in zip(parameters, reference, strict=True):
        assert (a.grad is None) == (b.grad is None)
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad)
    assert clip_gradients(parameters.parameters(), 99.0).item() == pytest.approx(1.5)
    assert gradient_norm(nn.ParameterList([torch.ones(2)])).item() == 0.0
