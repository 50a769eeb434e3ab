"""Claims about a gate that goes on with other experts: shares keep their proportions, a newcomer starts small."""

import pytest
import torch

from router.gate import Gate, GateSettings
from router.gate_transfer import MAX_INITIAL_WEIGHT, transfer_gate

ROLES = ("news", "forum", "bank", "bank")


def gate(roles: tuple[str, ...], seed: int = 0, **changed: object) -> Gate:
    torch.manual_seed(seed)
    made = Gate(8, roles, GateSettings.model_validate({"dropout": 0.0, **changed})).eval()
    for parameter in made.net.parameters():
        parameter.data.add_(torch.randn_like(parameter))
    made.log_temperature.data.fill_(-0.7)
    return made


def shares(one: Gate) -> torch.Tensor:
    """Of texts far from each other, (B, E)."""
    texts = 20 * torch.randn(500, one.net[0].in_features, generator=torch.Generator().manual_seed(3))
    return one.mix(one.logits(texts)).dense.detach()


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
@pytest.mark.parametrize("hidden", [0, 16])
@pytest.mark.parametrize("role", ["macro", "bank"])
def test_a_newcomer_gets_at_most_a_hundredth_of_any_text_and_the_others_keep_their_proportions(
    kind: str, hidden: int, role: str
) -> None:
    old = gate(ROLES, kind=kind, hidden=hidden)
    new = gate((*ROLES, role), seed=1, kind=kind, hidden=hidden)
    transfer_gate(new, old, (0, 1, 2, 3, None))
    before, after = shares(old), shares(new)
    assert 0 < after[:, -1].max() <= MAX_INITIAL_WEIGHT * 1.001
    rest = after[:, :-1] / after[:, :-1].sum(1, keepdim=True)
    torch.testing.assert_close(rest, before, atol=MAX_INITIAL_WEIGHT, rtol=0)
    assert after[:, :-1].argmax(1).equal(before.argmax(1))


def test_who_stays_shares_out_what_another_had() -> None:
    old = gate(ROLES)
    new = gate(("news", "bank", "bank"), seed=1)
    transfer_gate(new, old, (0, 2, 3))
    kept = shares(old)[:, [0, 2, 3]]
    torch.testing.assert_close(shares(new), kept / kept.sum(1, keepdim=True))


def test_a_role_goes_with_its_last_expert_and_stays_with_another() -> None:
    old = gate(ROLES, kind="team")
    without = gate(("forum", "bank", "bank"), seed=1, kind="team")
    transfer_gate(without, old, (1, 2, 3))
    kept = shares(old)[:, 1:]
    torch.testing.assert_close(shares(without), kept / kept.sum(1, keepdim=True))
    alone = gate(("news", "forum", "bank"), seed=1, kind="team")
    transfer_gate(alone, old, (0, 1, 2))
    roles = torch.stack([shares(old)[:, 0], shares(old)[:, 1], shares(old)[:, 2:].sum(1)], 1)
    torch.testing.assert_close(shares(alone), roles)


def test_what_the_router_reads_is_carried_too() -> None:
    old, new = gate(ROLES, queries=2), gate((*ROLES, "macro"), seed=1, queries=2)
    old.attend.weight.data.normal_()
    transfer_gate(new, old, (0, 1, 2, 3, None))
    assert torch.equal(new.attend.weight, old.attend.weight)
    assert torch.equal(new.log_temperature, old.log_temperature)
    assert torch.equal(new.net[0].weight, old.net[0].weight)
