"""Claims about `router.gate`: the gates' sums, groups, gradients, floors and pins."""

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from router.gate import Gate, GateSettings, GateOutput, expert_groups, normalize_states, restrict_gates, mean_summary

ROLES = ("news", "news", "bank", "bank", "crypto")
KINDS = ("soft", "hard", "team", "fixed")


def build(kind: str = "soft", roles: tuple[str, ...] = ROLES, **changed: object) -> Gate:
    torch.manual_seed(0)
    return Gate(8, roles, GateSettings.model_validate({"kind": kind, "dropout": 0.0, **changed}))


def logits_for(gate: Gate, *lead: int, seed: int = 1) -> Tensor:
    return torch.randn(*lead, gate.groups + gate.experts, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("lead", [(6,), (3, 4)])
def test_gates_sum_to_one_for_texts_and_tokens(kind: str, hard: bool, top_k: int | None, lead: tuple[int, ...]) -> None:
    gate = build(kind, top_k=top_k)
    mixed = gate.compute_gates(logits_for(gate, *lead), hard=hard)
    for part in (mixed.gates, mixed.dense):
        assert part.shape == (*lead, len(ROLES))
        assert part.dtype == torch.float32
        torch.testing.assert_close(part.sum(-1), torch.ones(lead))


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_a_token_is_gated_like_a_text_of_its_own(kind: str) -> None:
    gate = build(kind)
    logits = logits_for(gate, 2, 3)
    torch.testing.assert_close(gate.compute_gates(logits).gates[1, 2], gate.compute_gates(logits[1, 2][None]).gates[0])


def test_groups_are_one_each_one_for_all_or_one_a_role() -> None:
    assert expert_groups("soft", ROLES).tolist() == [0, 1, 2, 3, 4]
    assert expert_groups("hard", ROLES).tolist() == [0, 0, 0, 0, 0]
    assert expert_groups("team", ROLES).tolist() == [0, 0, 1, 1, 2]


def test_soft_gates_are_the_softmax_of_the_role_logits() -> None:
    gate = build("soft")
    logits = logits_for(gate, 4)
    mixed = gate.compute_gates(logits)
    torch.testing.assert_close(mixed.gates, logits[:, :5].softmax(-1))
    assert torch.equal(mixed.gates, mixed.dense)


def test_hard_gates_are_one_hot_on_the_largest_expert_logit() -> None:
    gate = build("hard")
    logits = logits_for(gate, 4)
    gates = gate.compute_gates(logits).gates
    assert gates.count_nonzero(-1).tolist() == [1] * 4
    assert gates.argmax(-1).tolist() == logits[:, 1:].argmax(-1).tolist()


def test_team_gates_are_role_weights_times_one_hot() -> None:
    gate = build("team")
    logits = logits_for(gate, 1)
    roles, experts = logits[0, :3].softmax(-1), logits[0, 3:]
    by_hand = torch.zeros(5)
    for role, members in enumerate(([0, 1], [2, 3], [4])):
        by_hand[members[int(experts[members].argmax())]] = roles[role]
    torch.testing.assert_close(gate.compute_gates(logits).gates[0], by_hand)


def test_gradient_flows_straight_through_to_every_expert_logit_of_a_group() -> None:
    gate = build("hard")
    logits = logits_for(gate, 1).requires_grad_()
    payoff = torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0])
    (through,) = torch.autograd.grad((gate.compute_gates(logits).gates * payoff).sum(), logits)
    (soft,) = torch.autograd.grad((logits[:, 1:].softmax(-1) * payoff).sum(), logits)
    torch.testing.assert_close(through, soft)
    assert (through[0, 1:] != 0).all()


def test_top_k_keeps_the_largest_and_renormalises() -> None:
    gate = build("soft", top_k=2)
    logits = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]]).log()
    gates = gate.compute_gates(torch.cat([logits, torch.zeros(1, 5)], -1)).gates
    torch.testing.assert_close(gates, torch.tensor([[4 / 7, 3 / 7, 0.0, 0.0, 0.0]]))


def test_top_k_leaves_the_straight_through_gradient_of_a_hard_gate() -> None:
    plain, kept = build("hard"), build("hard", top_k=1)
    payoff = torch.arange(5.0)
    logits = logits_for(plain, 2).requires_grad_()
    grads = [torch.autograd.grad((g.mix(logits).gates * payoff).sum(), logits)[0] for g in (plain, kept)]
    assert torch.equal(*grads)
    assert grads[1].abs().sum() > 0


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_hard_inference_is_one_hot_on_the_most_probable_of_all(kind: str) -> None:
    gate = build(kind)
    mixed = gate.compute_gates(logits_for(gate, 7), hard=True)
    assert mixed.gates.argmax(-1).tolist() == mixed.dense.argmax(-1).tolist()
    assert set(mixed.gates.unique().tolist()) == {0.0, 1.0}


def test_fresh_gates_weigh_roles_alike() -> None:
    for hidden in (0, 64):
        gate = build("soft", hidden=hidden)
        torch.testing.assert_close(gate.compute_gates(gate.logits(torch.randn(3, 8))).gates, torch.full((3, 5), 0.2))


def test_fresh_expert_rows_are_small_and_not_all_alike() -> None:
    last = build("team", hidden=0).net[-1]
    assert isinstance(last, torch.nn.Linear)
    assert last.weight[:3].count_nonzero() == 0
    assert 0 < last.weight[3:].std() < 0.05
    assert last.bias.count_nonzero() == 0


def test_temperature_stops_at_its_floor_and_can_rise_from_there() -> None:
    gate = build("soft")
    with torch.no_grad():
        gate.log_temperature.fill_(-9.0)
    assert gate.temperature.item() == pytest.approx(0.1)
    gate.temperature.backward()
    assert gate.log_temperature.grad is not None
    assert gate.log_temperature.grad > 0


def test_higher_temperature_blends_more_evenly() -> None:
    cold, warm = build("soft", temperature=0.5), build("soft", temperature=2.0)
    logits = logits_for(cold, 5)
    assert (warm.mix(logits).gates.amax(-1) < cold.mix(logits).gates.amax(-1)).all()


@pytest.mark.parametrize("hidden", [0, 64])
def test_logits_are_fp32_in_half_precision_and_under_autocast(hidden: int) -> None:
    gate = build("team", hidden=hidden)
    summary = torch.randn(3, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = gate.logits(summary)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, gate.logits(summary.float()))


def test_a_fixed_gate_is_constant_and_learns_nothing() -> None:
    gate = build("fixed", fixed=(3.0, 1.0, 0.0, 0.0, 0.0)).requires_grad_(True)
    mixed = gate.compute_gates(gate.logits(torch.randn(2, 8)))
    assert mixed.gates.tolist() == [[0.75, 0.25, 0.0, 0.0, 0.0]] * 2
    assert not any(parameter.requires_grad for parameter in gate.parameters())
    assert not mixed.gates.requires_grad


def test_a_fixed_gate_without_weights_is_uniform() -> None:
    gate = build("fixed")
    torch.testing.assert_close(gate.compute_gates(logits_for(gate, 2)).gates, torch.full((2, 5), 0.2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 0.05},
        {"kind": "soft", "fixed": (1.0,)},
        {"kind": "fixed", "fixed": (0.0, 0.0)},
        {"kind": "fixed", "fixed": (2.0, -1.0)},
        {"kind": "fixed", "fixed": (float("nan"), 1.0)},
        {"top_k": 0},
        {"queries": -1},
        {"kind": "random"},
        {"hiden": 3},
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GateSettings.model_validate(wrong)


def test_a_summary_reads_only_the_tokens_of_the_mask() -> None:
    states = torch.randn(2, 4, 8)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    spoiled = states.clone()
    spoiled[0, 0], spoiled[0, 3] = float("nan"), 1e9
    by_hand = normalize_states(states)[0, 1:3].mean(0)
    torch.testing.assert_close(mean_summary(spoiled, mask)[0], by_hand)


def test_a_summary_of_no_token_is_zeros_with_a_finite_gradient() -> None:
    states = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4])
    summary = mean_summary(states, mask)
    assert summary[0].tolist() == [0.0] * 8
    summary.square().sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_a_summary_does_not_see_the_scale_of_a_token() -> None:
    states, mask = torch.randn(1, 3, 8), torch.ones(1, 3)
    torch.testing.assert_close(mean_summary(states * 100, mask), mean_summary(states, mask), atol=1e-3, rtol=1e-3)


def test_queries_start_as_the_mean_and_learn_to_look_at_single_tokens() -> None:
    gate = build(queries=2)
    states, mask = torch.randn(3, 4, 8), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    start = gate.summary(states, mask)
    torch.testing.assert_close(start, mean_summary(states, mask).repeat(1, 3))
    gate.logits(start)[:, 0].sum().backward()
    assert gate.attend is not None
    assert gate.attend.weight.grad is not None
    with torch.no_grad():
        gate.attend.weight += 1e4 * normalize_states(states)[0, 1]
    torch.testing.assert_close(gate.summary(states, mask)[0, 8:16], normalize_states(states)[0, 1])


def test_queries_read_only_the_tokens_of_the_mask_and_zeros_where_there_are_none() -> None:
    gate = build(queries=2)
    assert gate.attend is not None
    torch.nn.init.normal_(gate.attend.weight)
    states, mask = torch.randn(2, 4, 8), torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    spoiled = states.clone()
    spoiled[0, 0], spoiled[0, 3] = float("nan"), 1e9
    read = gate.summary(spoiled, mask)
    torch.testing.assert_close(read[:1], gate.summary(states[:1, 1:3], torch.ones(1, 2)))
    assert read[1].tolist() == [0.0] * 24


def test_a_gate_without_queries_has_no_more_weights_than_before() -> None:
    assert not any("attend" in key for key in build().state_dict())


def pinned(gates: list[float], dense: list[float], allowed: list[bool]) -> list[float]:
    return (
        restrict_gates(GateOutput(torch.tensor([gates]), torch.tensor([dense])), torch.tensor([allowed]))
        .gates[0]
        .tolist()
    )


def test_a_pin_keeps_the_allowed_experts_in_proportion() -> None:
    assert pinned([0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [True, True, False]) == pytest.approx([0.4, 0.6, 0.0])


def test_a_pin_against_a_hard_choice_falls_back_on_the_soft_gates() -> None:
    assert pinned([0.0, 0.0, 1.0], [0.1, 0.3, 0.6], [True, True, False]) == pytest.approx([0.25, 0.75, 0.0])


def test_a_wrong_pin_is_uniform_and_never_nan() -> None:
    assert pinned([0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [True, True, False]) == [0.5, 0.5, 0.0]


def test_a_pin_to_no_expert_leaves_the_text_to_the_router() -> None:
    assert pinned([0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [False] * 3) == [0.25, 0.25, 0.5]


def test_a_pin_has_a_finite_gradient_even_where_it_is_wrong() -> None:
    gate = build("hard")
    logits = (logits_for(gate, 3) * 200).requires_grad_()
    allowed = torch.tensor([[True, False, False, False, False], [False] * 5, [False, True, True, False, False]])
    (restrict_gates(gate.compute_gates(logits), allowed).gates * torch.arange(5.0)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_a_pin_holds_every_token_of_its_text() -> None:
    gate = build("soft")
    allowed = torch.tensor([[True, True, False, False, False], [False, False, True, False, False]])
    gates = restrict_gates(gate.compute_gates(logits_for(gate, 2, 3)), allowed).gates
    assert gates.shape == (2, 3, 5)
    assert gates[0, :, 2:].count_nonzero() == 0
    assert gates[1, :, 2].tolist() == [1.0] * 3
