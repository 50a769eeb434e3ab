"""Tests of `router.losses`: values against manual results, and gradients of nearly unused experts."""

import math

import pytest
import torch
from torch import Tensor

from router.gate import Gate
from router.gate_settings import GateSettings
from router.losses import (
    BALANCE_LOSSES,
    balance_loss,
    domain_loss,
    text_entropy_loss,
    usage_entropy_loss,
)


def allowed_experts(*rows: tuple[int, ...], experts: int = 3) -> Tensor:
    """Return the (B, E) bool mask of each text's allowed expert indices."""
    return torch.tensor([[e in row for e in range(experts)] for row in rows])


def test_domain_loss_is_the_negative_log_weight_of_the_domain() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    expected = -(math.log(0.75) + math.log(0.7)) / 2
    assert domain_loss(probs, allowed_experts((0, 1), (2,))).item() == pytest.approx(expected)


def test_domain_loss_skips_texts_of_unknown_domain() -> None:
    probs = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    assert domain_loss(probs, allowed_experts((), (2,))).item() == pytest.approx(-math.log(0.7))


def test_domain_loss_without_known_domains_is_0_with_a_backward_pass() -> None:
    probs = torch.rand(2, 3, requires_grad=True)
    loss = domain_loss(probs, allowed_experts((), ()))
    loss.backward()
    assert loss.item() == 0.0
    assert probs.grad is not None
    assert probs.grad.count_nonzero() == 0


def test_domain_loss_has_a_gradient_for_hard_gates() -> None:
    gate = Gate(8, ("all",) * 3, GateSettings(kind="hard"))
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gate.num_groups == 1
    domain_loss(gate.compute_gates(logits).probs, allowed_experts((0,), (2,))).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1:] != 0).all()


def gradient_at(loss_name: str, weight: float, allowed: Tensor) -> Tensor:
    """Return the gradient at the logits of two experts for two texts; the second expert has this weight."""
    logits = torch.tensor([[0.0, math.log(weight / (1 - weight))]] * 2, requires_grad=True)
    loss = {"domain": domain_loss, **BALANCE_LOSSES}[loss_name]
    loss(logits.softmax(-1), allowed).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("weight", [1e-2, 1e-5, 1e-8, 1e-20])
def test_domain_loss_has_full_gradient_for_a_nearly_unused_expert(weight: float) -> None:
    grad = gradient_at("domain", weight, allowed_experts((1,), (1,), experts=2))
    torch.testing.assert_close(grad[:, 1], torch.full((2,), -(1 - weight) / 2))


def test_kl_balance_has_a_gradient_where_usage_entropy_has_none() -> None:
    allowed = allowed_experts((0,), (1,), experts=2)
    kl, usage = (gradient_at(name, 1.5e-5, allowed)[:, 1].sum().abs().item() for name in ("kl", "usage"))
    assert kl > 0.1
    assert usage < 1e-3


def test_kl_balance_has_a_gradient_below_min_usage() -> None:
    grad = gradient_at("kl", 1e-8, allowed_experts((0,), (1,), experts=2))
    assert grad.isfinite().all()
    assert (grad[:, 1] < 0).all()


@pytest.mark.parametrize("name", ["domain", *BALANCE_LOSSES])
def test_weight_of_0_gives_finite_values_and_gradients(name: str) -> None:
    probs = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    loss = {"domain": domain_loss, **BALANCE_LOSSES}[name](probs, allowed_experts((1,), (2,)))
    loss.backward()
    assert probs.grad is not None
    assert loss.isfinite()
    assert probs.grad.isfinite().all()


def test_balance_is_kl_to_the_domains_of_the_batch() -> None:
    probs = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    target, usage = torch.tensor([0.75, 0.25, 0.0]), probs.mean(0)  # one text on expert 0, one on 0 or 1
    expected = sum(t * math.log(t / u) for t, u in zip(target.tolist(), usage.tolist(), strict=True) if t) / math.log(3)
    assert balance_loss(probs, allowed_experts((0,), (0, 1))).item() == pytest.approx(expected, rel=1e-5)


def test_balance_target_is_uniform_for_unknown_domains() -> None:
    uniform = torch.full((2, 3), 1 / 3)
    assert balance_loss(uniform, allowed_experts((), ())).item() == pytest.approx(0.0, abs=1e-6)


def test_balance_is_low_for_a_batch_of_a_single_domain() -> None:
    probs = torch.tensor([[0.999, 0.0005, 0.0005]] * 4)
    allowed = allowed_experts((0,), (0,), (0,), (0,))
    assert balance_loss(probs, allowed) < 0.01
    assert usage_entropy_loss(probs, allowed) > 0.9


@pytest.mark.parametrize("seed", range(20))
def test_balance_is_at_most_the_domain_loss_with_one_expert_per_domain(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    experts = 2 + seed % 5
    probs = (3 * torch.randn(16, experts, generator=random)).softmax(-1)
    domain = torch.randint(experts, (16,), generator=random)
    allowed = domain[:, None] == torch.arange(experts)
    assert balance_loss(probs, allowed) * math.log(experts) <= domain_loss(probs, allowed) + 1e-6


def test_entropy_losses_of_single_and_uniform_experts() -> None:
    single, uniform, unknown = torch.eye(3)[:1].repeat(4, 1), torch.full((4, 3), 1 / 3), allowed_experts((), (), (), ())
    assert usage_entropy_loss(single, unknown).item() == pytest.approx(1.0)
    assert usage_entropy_loss(uniform, unknown).item() == pytest.approx(0.0, abs=1e-6)
    assert text_entropy_loss(single, unknown).item() == pytest.approx(0.0)
    assert text_entropy_loss(uniform, unknown).item() == pytest.approx(1.0)


def test_text_entropy_is_0_for_one_hot_texts_in_a_balanced_batch() -> None:
    one_hot = torch.eye(3)  # each text uses another expert: usage is balanced, texts are one-hot
    assert usage_entropy_loss(one_hot, allowed_experts((), (), ())).item() == pytest.approx(0.0, abs=1e-6)
    assert text_entropy_loss(one_hot, allowed_experts((), (), ())).item() == pytest.approx(0.0)


@pytest.mark.parametrize("name", BALANCE_LOSSES)
@pytest.mark.parametrize("shape", [(4, 1), (0, 3)])
def test_balance_losses_are_0_for_a_single_expert_or_no_text(name: str, shape: tuple[int, int]) -> None:
    probs = torch.ones(shape, requires_grad=True)
    loss = BALANCE_LOSSES[name](probs, torch.ones(shape, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
