"""Tests of `router.gate`: sums, groups and gradients of gates, their bounds, and restriction to allowed experts."""

import random

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from router.gate import (
    Gate,
    GateOutput,
    equal_gates,
    expert_groups,
    hard_gates,
    mean_summary,
    normalize_states,
    prune_gates,
    restrict_gates,
)
from router.gate_settings import GateSettings

ROLES = ("news", "news", "bank", "bank", "crypto")
KINDS = ("soft", "hard", "team", "fixed")


def build(kind: str = "soft", roles: tuple[str, ...] = ROLES, **overrides: object) -> Gate:
    torch.manual_seed(0)
    return Gate(8, roles, GateSettings.model_validate({"kind": kind, "dropout": 0.0, "queries": 0, **overrides}))


def logits_for(gate: Gate, *lead: int, seed: int = 1) -> Tensor:
    return torch.randn(*lead, gate.num_groups + gate.num_experts, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("top_k", [None, 1, 2])
@pytest.mark.parametrize("lead", [(6,), (3, 4)])
def test_gates_sum_to_one_for_texts_and_tokens(kind: str, hard: bool, top_k: int | None, lead: tuple[int, ...]) -> None:
    gate = build(kind, top_k=top_k)
    output = gate.compute_gates(logits_for(gate, *lead), hard=hard)
    for part in (output.gates, output.probs):
        assert part.shape == (*lead, len(ROLES))
        assert part.dtype == torch.float32
        torch.testing.assert_close(part.sum(-1), torch.ones(lead))


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_token_gates_equal_text_gates(kind: str) -> None:
    gate = build(kind)
    logits = logits_for(gate, 2, 3)
    torch.testing.assert_close(gate.compute_gates(logits).gates[1, 2], gate.compute_gates(logits[1, 2][None]).gates[0])


def test_expert_groups_by_kind() -> None:
    assert expert_groups("soft", ROLES).tolist() == [0, 1, 2, 3, 4]
    assert expert_groups("hard", ROLES).tolist() == [0, 0, 0, 0, 0]
    assert expert_groups("team", ROLES).tolist() == [0, 0, 1, 1, 2]


def test_soft_gates_are_the_softmax_of_the_group_logits() -> None:
    gate = build("soft")
    logits = logits_for(gate, 4)
    output = gate.compute_gates(logits)
    torch.testing.assert_close(output.gates, logits[:, :5].softmax(-1))
    assert torch.equal(output.gates, output.probs)


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
    expected = torch.zeros(5)
    for role, members in enumerate(([0, 1], [2, 3], [4])):
        expected[members[int(experts[members].argmax())]] = roles[role]
    torch.testing.assert_close(gate.compute_gates(logits).gates[0], expected)


def test_straight_through_gradient_reaches_all_experts_of_a_group() -> None:
    gate = build("hard")
    logits = logits_for(gate, 1).requires_grad_()
    upstream = torch.tensor([1.0, 5.0, 2.0, 0.0, 3.0])
    (straight_through,) = torch.autograd.grad((gate.compute_gates(logits).gates * upstream).sum(), logits)
    (soft,) = torch.autograd.grad((logits[:, 1:].softmax(-1) * upstream).sum(), logits)
    torch.testing.assert_close(straight_through, soft)
    assert (straight_through[0, 1:] != 0).all()


def test_top_k_selects_the_largest_and_renormalizes() -> None:
    gate = build("soft", top_k=2)
    logits = torch.tensor([[0.4, 0.3, 0.1, 0.1, 0.1]]).log()
    gates = gate.compute_gates(torch.cat([logits, torch.zeros(1, 5)], -1)).gates
    torch.testing.assert_close(gates, torch.tensor([[4 / 7, 3 / 7, 0.0, 0.0, 0.0]]))


def test_top_k_preserves_the_straight_through_gradient_of_hard_gates() -> None:
    plain, top_k = build("hard"), build("hard", top_k=1)
    upstream = torch.arange(5.0)
    logits = logits_for(plain, 2).requires_grad_()
    grads = [torch.autograd.grad((g.compute_gates(logits).gates * upstream).sum(), logits)[0] for g in (plain, top_k)]
    assert torch.equal(*grads)
    assert grads[1].abs().sum() > 0


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_hard_inference_is_one_hot_on_the_most_probable_expert(kind: str) -> None:
    gate = build(kind)
    output = gate.compute_gates(logits_for(gate, 7), hard=True)
    assert output.gates.argmax(-1).tolist() == output.probs.argmax(-1).tolist()
    assert set(output.gates.unique().tolist()) == {0.0, 1.0}


def test_initial_gates_are_equal() -> None:
    for hidden in (0, 64):
        gate = build("soft", hidden=hidden)
        torch.testing.assert_close(gate.compute_gates(gate.logits(torch.randn(3, 8))).gates, torch.full((3, 5), 0.2))


def test_initial_expert_rows_are_small_and_random() -> None:
    last = build("team", hidden=0).net[-1]
    assert isinstance(last, torch.nn.Linear)
    assert last.weight[:3].count_nonzero() == 0
    assert 0 < last.weight[3:].std() < 0.05
    assert last.bias.count_nonzero() == 0


def test_temperature_stops_at_its_lower_bound_and_can_rise_again() -> None:
    gate = build("soft")
    with torch.no_grad():
        gate.log_temperature.fill_(-9.0)
    assert gate.temperature.item() == pytest.approx(0.1)
    gate.temperature.backward()
    assert gate.log_temperature.grad is not None
    assert gate.log_temperature.grad > 0


def test_higher_temperature_makes_gates_more_equal() -> None:
    low, high = build("soft", temperature=0.5), build("soft", temperature=2.0)
    logits = logits_for(low, 5)
    assert (high.compute_gates(logits).gates.amax(-1) < low.compute_gates(logits).gates.amax(-1)).all()


@pytest.mark.parametrize("hidden", [0, 64])
def test_logits_are_fp32_for_half_precision_and_autocast(hidden: int) -> None:
    gate = build("team", hidden=hidden)
    summary = torch.randn(3, 8).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = gate.logits(summary)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, gate.logits(summary.float()))


def test_fixed_gate_is_constant_and_not_trainable() -> None:
    gate = build("fixed", fixed=(3.0, 1.0, 0.0, 0.0, 0.0)).requires_grad_(True)
    output = gate.compute_gates(gate.logits(torch.randn(2, 8)))
    assert output.gates.tolist() == [[0.75, 0.25, 0.0, 0.0, 0.0]] * 2
    assert not any(parameter.requires_grad for parameter in gate.parameters())
    assert not output.gates.requires_grad


def test_fixed_gate_without_weights_is_uniform() -> None:
    gate = build("fixed")
    torch.testing.assert_close(gate.compute_gates(logits_for(gate, 2)).gates, torch.full((2, 5), 0.2))


@pytest.mark.parametrize(
    "settings",
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
def test_invalid_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GateSettings.model_validate(settings)


def test_summary_uses_only_tokens_of_the_mask() -> None:
    states = torch.randn(2, 4, 8)
    mask = torch.tensor([[0, 1, 1, 0], [1, 1, 1, 1]])
    corrupted = states.clone()
    corrupted[0, 0], corrupted[0, 3] = float("nan"), 1e9
    expected = normalize_states(states)[0, 1:3].mean(0)
    torch.testing.assert_close(mean_summary(corrupted, mask)[0], expected)


def test_summary_without_tokens_is_0_with_a_finite_gradient() -> None:
    states = torch.randn(2, 4, 8, requires_grad=True)
    mask = torch.tensor([[False] * 4, [True] * 4])
    summary = mean_summary(states, mask)
    assert summary[0].tolist() == [0.0] * 8
    summary.square().sum().backward()
    assert states.grad is not None
    assert states.grad.isfinite().all()


def test_summary_is_independent_of_the_scale_of_a_token() -> None:
    states, mask = torch.randn(1, 3, 8), torch.ones(1, 3)
    torch.testing.assert_close(mean_summary(states * 100, mask), mean_summary(states, mask), atol=1e-3, rtol=1e-3)


def test_queries_start_as_the_mean_and_can_attend_to_single_tokens() -> None:
    gate = build(queries=2)
    states, mask = torch.randn(3, 4, 8), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [1, 1, 1, 1]])
    initial = gate.summary(states, mask)
    torch.testing.assert_close(initial, mean_summary(states, mask).repeat(1, 3))
    gate.logits(initial)[:, 0].sum().backward()
    assert gate.attend is not None
    assert gate.attend.weight.grad is not None
    with torch.no_grad():
        gate.attend.weight += 1e4 * normalize_states(states)[0, 1]
    torch.testing.assert_close(gate.summary(states, mask)[0, 8:16], normalize_states(states)[0, 1])


def test_queries_use_only_tokens_of_the_mask_and_give_0_without_any() -> None:
    gate = build(queries=2)
    assert gate.attend is not None
    torch.nn.init.normal_(gate.attend.weight)
    states, mask = torch.randn(2, 4, 8), torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0]])
    corrupted = states.clone()
    corrupted[0, 0], corrupted[0, 3] = float("nan"), 1e9
    summary = gate.summary(corrupted, mask)
    torch.testing.assert_close(summary[:1], gate.summary(states[:1, 1:3], torch.ones(1, 2)))
    assert summary[1].tolist() == [0.0] * 24


def test_gate_without_queries_has_no_attention_weights() -> None:
    assert not any("attend" in key for key in build().state_dict())


def restricted(gates: list[float], probs: list[float], allowed: list[bool]) -> list[float]:
    """Return the restricted gates of a single text."""
    output = GateOutput(torch.tensor([gates]), torch.tensor([probs]))
    return restrict_gates(output, torch.tensor([allowed])).gates[0].tolist()


def test_restricted_gates_preserve_ratios_of_allowed_experts() -> None:
    assert restricted([0.2, 0.3, 0.5], [0.2, 0.3, 0.5], [True, True, False]) == pytest.approx([0.4, 0.6, 0.0])


def test_restricted_gates_fall_back_on_soft_probabilities() -> None:
    assert restricted([0.0, 0.0, 1.0], [0.1, 0.3, 0.6], [True, True, False]) == pytest.approx([0.25, 0.75, 0.0])


def test_restricted_gates_are_uniform_if_all_probabilities_are_0() -> None:
    assert restricted([0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [True, True, False]) == [0.5, 0.5, 0.0]


def test_text_without_allowed_expert_is_not_restricted() -> None:
    assert restricted([0.25, 0.25, 0.5], [0.25, 0.25, 0.5], [False] * 3) == [0.25, 0.25, 0.5]


def test_restricted_gates_have_a_finite_gradient() -> None:
    gate = build("hard")
    logits = (logits_for(gate, 3) * 200).requires_grad_()
    allowed = torch.tensor([[True, False, False, False, False], [False] * 5, [False, True, True, False, False]])
    (restrict_gates(gate.compute_gates(logits), allowed).gates * torch.arange(5.0)).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_restricted_gates_apply_to_every_token_of_a_text() -> None:
    gate = build("soft")
    allowed = torch.tensor([[True, True, False, False, False], [False, False, True, False, False]])
    gates = restrict_gates(gate.compute_gates(logits_for(gate, 2, 3)), allowed).gates
    assert gates.shape == (2, 3, 5)
    assert gates[0, :, 2:].count_nonzero() == 0
    assert gates[1, :, 2].tolist() == [1.0] * 3


def random_settings(seed: int) -> tuple[tuple[str, ...], dict[str, object]]:
    """Roles of a random number of experts, and random settings of a gate for them."""
    source = random.Random(seed)
    roles = tuple(source.choice(("news", "bank", "crypto")) for _ in range(source.randint(1, 7)))
    overrides: dict[str, object] = {"top_k": source.choice((None, 1, 2, 3)), "hidden": source.choice((0, 5))}
    overrides["temperature"] = source.choice((0.2, 1.0, 30.0))
    kind = source.choice(KINDS)
    if kind == "fixed":
        overrides["fixed"] = (1.0, *(source.choice((0.0, 0.5, 4.0)) for _ in roles[1:]))
    return roles, overrides | {"kind": kind}


@pytest.mark.parametrize("seed", range(40))
def test_random_gates_are_distributions_and_follow_a_permutation_of_the_texts(seed: int) -> None:
    roles, overrides = random_settings(seed)
    gate = build(roles=roles, **overrides).eval()
    logits = 5 * logits_for(gate, 9, seed=seed)
    for hard in (False, True):
        output = gate.compute_gates(logits, hard=hard)
        for part in (output.gates, output.probs):
            assert (part >= 0).all()
            torch.testing.assert_close(part.sum(-1), torch.ones(9))
        order = torch.randperm(9, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(gate.compute_gates(logits[order], hard=hard).gates, output.gates[order])
        top_k = overrides["top_k"]
        if isinstance(top_k, int) and overrides["kind"] != "fixed":
            assert (output.gates.count_nonzero(-1) <= top_k).all()


@pytest.mark.parametrize("seed", range(20))
def test_probabilities_are_the_product_of_group_and_expert_softmax_and_ignore_a_shift(seed: int) -> None:
    roles, overrides = random_settings(seed)
    gate = build(roles=roles, **(overrides | {"kind": "team", "fixed": None}))
    logits = logits_for(gate, 4, seed=seed)
    probs = gate.compute_gates(logits).probs
    groups = (logits[:, : gate.num_groups] / gate.temperature).softmax(-1)
    for group in range(gate.num_groups):
        members = gate.group == group
        torch.testing.assert_close(probs[:, members].sum(-1), groups[:, group])
        within = (logits[:, gate.num_groups :][:, members] / gate.temperature).softmax(-1)
        torch.testing.assert_close(probs[:, members] / probs[:, members].sum(-1, keepdim=True), within)
    torch.testing.assert_close(gate.compute_gates(logits + 3.0).probs, probs)


@pytest.mark.parametrize("seed", range(30))
def test_restricted_gates_are_distributions_over_the_allowed_experts(seed: int) -> None:
    random_numbers = torch.Generator().manual_seed(seed)
    kind = KINDS[seed % 3]
    gate = build(kind).eval()
    output = gate.compute_gates(20 * logits_for(gate, 12, seed=seed), hard=seed % 2 == 1)
    allowed = torch.rand(12, 5, generator=random_numbers) < 0.4
    once = restrict_gates(output, allowed)
    free = ~allowed.any(-1)
    for part in (once.gates, once.probs):
        torch.testing.assert_close(part.sum(-1), torch.ones(12))
        assert not part[~free][~allowed[~free]].any()
        assert part.isfinite().all()
    torch.testing.assert_close(once.gates[free], output.gates[free])
    torch.testing.assert_close(restrict_gates(once, allowed).gates, once.gates)


def test_equal_and_hard_gates_ignore_or_sharpen_the_router() -> None:
    gate = build("soft")
    output = gate.compute_gates(logits_for(gate, 2, 3))
    assert equal_gates(output).gates.unique().tolist() == pytest.approx([0.2])
    sharp = hard_gates(output)
    assert torch.equal(sharp.gates.argmax(-1), output.probs.argmax(-1))
    assert torch.equal(sharp.probs, output.probs)
    assert torch.equal(hard_gates(sharp).gates, sharp.gates)


def test_token_gates_have_no_queries_unless_these_are_given() -> None:
    assert GateSettings(unit="token").queries == 0
    with pytest.raises(ValidationError, match="cannot use 2 queries, which attend over a text: set queries to 0"):
        GateSettings(unit="token", queries=2)
    with pytest.raises(ValidationError, match="temperature is below min_temperature: increase it"):
        GateSettings(temperature=0.05)
    with pytest.raises(ValidationError, match="remove them or set kind to `fixed`"):
        GateSettings(fixed=(1.0, 2.0))


def test_dropout_acts_in_training_only_and_gates_have_gradients_to_every_parameter() -> None:
    gate = build("soft", dropout=0.5, queries=2)
    states, mask = torch.randn(6, 4, 8), torch.ones(6, 4, dtype=torch.bool)
    summary = gate.summary(states, mask)
    assert not torch.equal(gate.train().logits(summary), gate.logits(summary))
    gate.eval()
    assert torch.equal(gate.logits(summary), gate.logits(summary))
    for parameter in gate.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    output = gate.compute_gates(gate.logits(gate.summary(states, mask)))
    (output.probs * torch.arange(5.0)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in gate.parameters())


@pytest.mark.parametrize("kind", ["soft", "team", "hard"])
@pytest.mark.parametrize("role", ["macro", "crypto"])
def test_training_the_rows_of_one_expert_changes_no_other_logit(kind: str, role: str) -> None:
    gate = build(kind, (*ROLES, role))
    states, mask = torch.randn(16, 5, 8), torch.ones(16, 5)
    before = gate.logits(gate.summary(states, mask)).detach()  # (B, G + E)
    gate.train_rows([5])
    assert gate.trains_some_rows
    optimizer = torch.optim.AdamW([p for p in gate.parameters() if p.requires_grad], lr=0.1, weight_decay=0.0)
    for _ in range(3):
        optimizer.zero_grad()
        gate.compute_gates(gate.logits(gate.summary(states, mask))).probs[:, 5].log().sum().neg().backward()
        optimizer.step()
    after = gate.logits(gate.summary(states, mask)).detach()
    own_group = role == "macro" or kind == "soft"
    rows = [gate.num_groups + 5, *([int(gate.group[5])] if own_group and kind != "hard" else [])]
    others = [row for row in range(gate.num_groups + 6) if row not in rows]
    assert torch.equal(before[:, others], after[:, others])
    assert not torch.equal(before[:, rows], after[:, rows])
    gate.requires_grad_()
    assert not gate.trains_some_rows


def test_pruned_gates_drop_small_weights_keep_the_largest_and_sum_to_1() -> None:
    gates = torch.tensor([[0.90, 0.08, 0.02], [0.34, 0.33, 0.33], [0.05, 0.05, 0.90]])
    pruned = prune_gates(GateOutput(gates, gates), 0.06).gates
    expected = torch.tensor([[0.90 / 0.98, 0.08 / 0.98, 0.0], [0.34, 0.33, 0.33], [0.0, 0.0, 1.0]])
    torch.testing.assert_close(pruned, expected)
    assert pruned[2, 2] == 1.0, "exactly, so that its weights may be folded"
    torch.testing.assert_close(prune_gates(GateOutput(gates, gates), 0.45).gates[1], torch.tensor([1.0, 0.0, 0.0]))
