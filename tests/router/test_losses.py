"""Claims about `router.losses`: what they equal by hand, and which gradients survive."""

import math

import pytest
import torch
from torch import Tensor

from router.gate import Gate, GateSettings
from router.losses import BALANCE_LOSSES, balance_loss, domain_loss, text_entropy_loss, usage_entropy_loss


def owners(*rows: tuple[int, ...], experts: int = 3) -> Tensor:
    """(B, E) bool from the expert indices that each text is allowed."""
    return torch.tensor([[e in row for e in range(experts)] for row in rows])


def test_domain_loss_is_the_log_share_of_the_domains_own_experts() -> None:
    dense = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    by_hand = -(math.log(0.75) + math.log(0.7)) / 2
    assert domain_loss(dense, owners((0, 1), (2,))).item() == pytest.approx(by_hand)


def test_domain_loss_skips_unmapped_rows() -> None:
    dense = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]])
    assert domain_loss(dense, owners((), (2,))).item() == pytest.approx(-math.log(0.7))


def test_domain_loss_without_a_mapped_row_is_zero_and_still_goes_back() -> None:
    dense = torch.rand(2, 3, requires_grad=True)
    loss = domain_loss(dense, owners((), ()))
    loss.backward()
    assert loss.item() == 0.0
    assert dense.grad is not None
    assert dense.grad.count_nonzero() == 0


def test_plain_hard_gating_still_gets_a_domain_gradient() -> None:
    gate = Gate(8, ("all",) * 3, GateSettings(kind="hard"))
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert gate.groups == 1
    domain_loss(gate.compute_gates(logits).probs, owners((0,), (2,))).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1:] != 0).all()


def gradient_at(loss_name: str, share: float, allowed: Tensor) -> Tensor:
    """Gradient at the logits of two experts, the second one having this share of both texts."""
    logits = torch.tensor([[0.0, math.log(share / (1 - share))]] * 2, requires_grad=True)
    loss = {"domain": domain_loss, **BALANCE_LOSSES}[loss_name]
    loss(logits.softmax(-1), allowed).backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("share", [1e-2, 1e-5, 1e-8, 1e-20])
def test_domain_loss_pulls_at_full_strength_on_a_nearly_dead_expert(share: float) -> None:
    grad = gradient_at("domain", share, owners((1,), (1,), experts=2))
    torch.testing.assert_close(grad[:, 1], torch.full((2,), -(1 - share) / 2))


def test_a_dying_expert_keeps_a_gradient_where_one_minus_entropy_has_none() -> None:
    allowed = owners((0,), (1,), experts=2)
    kl, usage = (gradient_at(name, 1.5e-5, allowed)[:, 1].sum().abs().item() for name in ("kl", "usage"))
    assert kl > 0.1
    assert usage < 1e-3


def test_balance_pulls_below_its_own_floor() -> None:
    grad = gradient_at("kl", 1e-8, owners((0,), (1,), experts=2))
    assert grad.isfinite().all()
    assert (grad[:, 1] < 0).all()


@pytest.mark.parametrize("name", ["domain", *BALANCE_LOSSES])
def test_a_share_of_exactly_zero_gives_finite_values_and_gradients(name: str) -> None:
    dense = torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    loss = {"domain": domain_loss, **BALANCE_LOSSES}[name](dense, owners((1,), (2,)))
    loss.backward()
    assert dense.grad is not None
    assert loss.isfinite()
    assert dense.grad.isfinite().all()


def test_balance_is_kl_to_the_batchs_own_domains() -> None:
    dense = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    target, used = torch.tensor([0.75, 0.25, 0.0]), dense.mean(0)  # one text on expert 0, one on 0 or 1
    by_hand = sum(t * math.log(t / u) for t, u in zip(target.tolist(), used.tolist(), strict=True) if t) / math.log(3)
    assert balance_loss(dense, owners((0,), (0, 1))).item() == pytest.approx(by_hand, rel=1e-5)


def test_balance_asks_for_all_experts_where_the_domain_is_unknown() -> None:
    uniform = torch.full((2, 3), 1 / 3)
    assert balance_loss(uniform, owners((), ())).item() == pytest.approx(0.0, abs=1e-6)


def test_balance_does_not_fight_a_batch_of_one_domain() -> None:
    decided = torch.tensor([[0.999, 0.0005, 0.0005]] * 4)
    allowed = owners((0,), (0,), (0,), (0,))
    assert balance_loss(decided, allowed) < 0.01
    assert usage_entropy_loss(decided, allowed) > 0.9


@pytest.mark.parametrize("seed", range(20))
def test_balance_never_exceeds_the_domain_loss_when_each_domain_has_one_expert(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    experts = 2 + seed % 5
    dense = (3 * torch.randn(16, experts, generator=random)).softmax(-1)
    domain = torch.randint(experts, (16,), generator=random)
    allowed = domain[:, None] == torch.arange(experts)
    assert balance_loss(dense, allowed) * math.log(experts) <= domain_loss(dense, allowed) + 1e-6


def test_entropies_run_from_one_expert_to_all_alike() -> None:
    one, alike, none = torch.eye(3)[:1].repeat(4, 1), torch.full((4, 3), 1 / 3), owners((), (), (), ())
    assert usage_entropy_loss(one, none).item() == pytest.approx(1.0)
    assert usage_entropy_loss(alike, none).item() == pytest.approx(0.0, abs=1e-6)
    assert text_entropy_loss(one, none).item() == pytest.approx(0.0)
    assert text_entropy_loss(alike, none).item() == pytest.approx(1.0)


def test_text_entropy_tells_decided_texts_from_a_balanced_batch() -> None:
    decided = torch.eye(3)  # each text on its own expert: usage balanced, texts decided
    assert usage_entropy_loss(decided, owners((), (), ())).item() == pytest.approx(0.0, abs=1e-6)
    assert text_entropy_loss(decided, owners((), (), ())).item() == pytest.approx(0.0)


@pytest.mark.parametrize("name", BALANCE_LOSSES)
@pytest.mark.parametrize("shape", [(4, 1), (0, 3)])
def test_one_expert_or_no_text_has_nothing_to_balance(name: str, shape: tuple[int, int]) -> None:
    dense = torch.ones(shape, requires_grad=True)
    loss = BALANCE_LOSSES[name](dense, torch.ones(shape, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0.0
