"""Tests of `router.gate_transfer`: ratios of weights are preserved, and a new expert starts with a small weight."""

import pytest
import torch

from router.gate import Gate
from router.gate_settings import GateSettings
from router.gate_transfer import MAX_INITIAL_WEIGHT, transfer_gate

ROLES = ("news", "forum", "bank", "bank")


def random_gate(roles: tuple[str, ...], seed: int = 0, **overrides: object) -> Gate:
    torch.manual_seed(seed)
    gate = Gate(8, roles, GateSettings.model_validate({"dropout": 0.0, **overrides})).eval()
    for parameter in gate.net.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    gate.log_temperature.data.fill_(-0.7)
    return gate


def routing_weights(gate: Gate) -> torch.Tensor:
    """Return the weights of texts with large and different states, (B, E)."""
    texts = 20 * torch.randn(500, gate.net[0].in_features, generator=torch.Generator().manual_seed(3))
    return gate.compute_gates(gate.logits(texts)).probs.detach()


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("role", ["macro", "bank"])
def test_gate_transfer_caps_new_expert_weight_and_preserves_ratios(kind: str, hidden: int, role: str) -> None:
    old = random_gate(ROLES, kind=kind, hidden=hidden)
    new = random_gate((*ROLES, role), seed=1, kind=kind, hidden=hidden)
    transfer_gate(new, old, (0, 1, 2, 3, None))
    before, after = routing_weights(old), routing_weights(new)
    assert 0 < after[:, -1].max() <= MAX_INITIAL_WEIGHT * 1.001
    renormalized = after[:, :-1] / after[:, :-1].sum(1, keepdim=True)
    torch.testing.assert_close(renormalized, before, atol=MAX_INITIAL_WEIGHT, rtol=0)
    assert after[:, :-1].argmax(1).equal(before.argmax(1))


def test_gate_transfer_distributes_the_weight_of_a_removed_expert() -> None:
    old = random_gate(ROLES)
    new = random_gate(("news", "bank", "bank"), seed=1)
    transfer_gate(new, old, (0, 2, 3))
    remaining = routing_weights(old)[:, [0, 2, 3]]
    torch.testing.assert_close(routing_weights(new), remaining / remaining.sum(1, keepdim=True))


def test_gate_transfer_removes_a_role_with_its_last_expert() -> None:
    old = random_gate(ROLES, kind="team")
    without = random_gate(("forum", "bank", "bank"), seed=1, kind="team")
    transfer_gate(without, old, (1, 2, 3))
    remaining = routing_weights(old)[:, 1:]
    torch.testing.assert_close(routing_weights(without), remaining / remaining.sum(1, keepdim=True))
    single = random_gate(("news", "forum", "bank"), seed=1, kind="team")
    transfer_gate(single, old, (0, 1, 2))
    roles = torch.stack([routing_weights(old)[:, 0], routing_weights(old)[:, 1], routing_weights(old)[:, 2:].sum(1)], 1)
    torch.testing.assert_close(routing_weights(single), roles)


def test_gate_transfer_copies_queries_and_temperature() -> None:
    old, new = random_gate(ROLES, queries=2), random_gate((*ROLES, "macro"), seed=1, queries=2)
    old.attend.weight.data.normal_()
    transfer_gate(new, old, (0, 1, 2, 3, None))
    assert torch.equal(new.attend.weight, old.attend.weight)
    assert torch.equal(new.log_temperature, old.log_temperature)
    assert torch.equal(new.net[0].weight, old.net[0].weight)
