"""Tests of `router.prior`: discriminants, distances and Arrow's direction agree with their definitions."""

import pytest
import torch
from torch import Tensor

from router.gate import Gate
from router.gate_settings import GateSettings
from router.gate_transfer import transfer_gate
from router.prior import NEVER, PrototypeSet, RouterPrior, StatePrototype, arrow_direction, mute_gates, standardized

DIM = 12


def prototype(seed: int, rows: float = 50.0, shift: float = 3.0) -> StatePrototype:
    generator = torch.Generator().manual_seed(seed)
    directions = torch.linalg.qr(torch.randn(DIM, 4, generator=generator))[0].T  # (K, D)
    mean = shift * torch.randn(DIM, generator=generator)
    return StatePrototype(mean, directions, torch.tensor([4.0, 3.0, 2.0, 1.0]), torch.tensor(0.5), torch.tensor(rows))


def covariance(domain: StatePrototype) -> Tensor:
    along = domain.directions.T @ torch.diag(domain.variances - domain.noise) @ domain.directions
    return (along + domain.noise * torch.eye(DIM)).double()


def filled(count: int = 3) -> tuple[PrototypeSet, list[StatePrototype]]:
    given = [prototype(seed, rows=50.0 * (1 + seed)) for seed in range(count)]
    prototypes = PrototypeSet(DIM, count)
    prototypes.fill(given)
    return prototypes, given


def pooled(given: list[StatePrototype]) -> Tensor:
    total = sum(float(domain.rows) for domain in given)
    parts = [covariance(domain) * float(domain.rows) / total for domain in given]
    return torch.stack(parts).sum(0)


def test_prototypes_scores_are_differences_of_log_densities() -> None:
    prototypes, given = filled()
    states, precision = torch.randn(20, DIM).double(), pooled(given).inverse()
    means = torch.stack([domain.mean for domain in given]).double()
    centre = means.mean(0)

    def log_density(mean: Tensor) -> Tensor:
        offsets = states - mean
        return -0.5 * ((offsets @ precision) * offsets).sum(1)

    expected = torch.stack([log_density(mean) - log_density(centre) for mean in means], 1)  # (N, E)
    scores = states.float() @ prototypes.weight.T + prototypes.bias
    torch.testing.assert_close(scores.double(), expected, atol=1e-3, rtol=1e-3)


def test_prototypes_distance_is_the_relative_mahalanobis_distance() -> None:
    prototypes, given = filled()
    states, inside = 4 * torch.randn(20, DIM).double(), pooled(given)
    means = torch.stack([domain.mean for domain in given]).double()
    offsets = means - means.mean(0)
    total = inside + offsets.T @ offsets / len(means)

    def squared(mean: Tensor, matrix: Tensor) -> Tensor:
        difference = states - mean
        return ((difference @ matrix.inverse()) * difference).sum(1)

    nearest = torch.stack([squared(mean, inside) for mean in means]).amin(0)
    expected = nearest - squared(means.mean(0), total)
    torch.testing.assert_close(prototypes.distance(states.float()).double(), expected, atol=1e-2, rtol=1e-3)


def test_prototypes_take_a_domains_own_mean_as_its_own() -> None:
    prior = RouterPrior(DIM, 3, "centroid")
    given = [prototype(seed) for seed in range(3)]
    prior.fit(given)
    means = torch.stack([domain.mean for domain in given])
    scores = prior(means, means[:, None], torch.ones(3, 1))  # (3, E)
    assert scores.argmax(1).tolist() == [0, 1, 2]


def test_prototypes_mark_no_text_before_a_threshold_is_fitted() -> None:
    prototypes, _ = filled()
    assert float(prototypes.threshold) == NEVER
    assert not (prototypes.distance(1e4 * torch.randn(5, DIM)) > prototypes.threshold).any()


def test_arrow_direction_is_the_first_right_singular_vector_of_all_updates() -> None:
    torch.manual_seed(0)
    updates = [(torch.randn(3, DIM), torch.randn(7, 3)), (torch.randn(2, DIM), torch.randn(5, 2))]
    stacked = torch.cat([b @ a for a, b in updates])  # (D', D)
    expected = torch.linalg.svd(stacked).Vh[0]
    direction = arrow_direction(updates).float()
    torch.testing.assert_close((direction @ expected).abs(), torch.tensor(1.0))


def test_arrow_prior_averages_the_size_of_a_texts_responses_over_its_tokens() -> None:
    prior = RouterPrior(2, 2, "arrow")
    prior.set_row(0, torch.tensor([1.0, 0.0]))
    prior.set_row(1, torch.tensor([0.0, 1.0]))
    states = torch.tensor([[[1.0, 2.0], [-3.0, 0.0], [0.0, 0.0]]])  # the last token is padding
    scores = prior(states.mean(1), states, torch.tensor([[2.0]]))
    torch.testing.assert_close(scores, torch.tensor([[2.0, 1.0]]))


def test_standardized_gate_has_mean_0_and_unit_norm() -> None:
    gate = standardized(5 + 2 * torch.randn(DIM))
    torch.testing.assert_close(gate.mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(gate.norm(), torch.tensor(1.0), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["soft", "hard", "team"])
def test_gate_with_a_prior_starts_at_the_softmax_of_its_scores(kind: str) -> None:
    settings = GateSettings.model_validate({"kind": kind, "init": "centroid", "dropout": 0.0})
    gate = Gate(DIM, ("news", "bank", "bank"), settings).eval()
    assert gate.prior is not None
    gate.prior.fit([prototype(seed, shift=0.3) for seed in range(3)])
    states, mask = torch.randn(4, 5, DIM), torch.ones(4, 5, dtype=torch.bool)
    summary = gate.summary(states, mask)
    probs = gate.compute_gates(gate.logits(summary)).probs
    torch.testing.assert_close(probs, summary[:, -3:].softmax(1))


def test_gate_transfer_of_an_added_and_removed_expert_gives_back_the_same_bits() -> None:
    settings = GateSettings(init="centroid")
    old = Gate(DIM, ("a", "b"), settings)
    assert old.prior is not None
    assert old.prior.prototypes is not None
    old.prior.fit([prototype(0), prototype(1)])
    more = Gate(DIM, ("a", "b", "c"), settings)
    transfer_gate(more, old, (0, 1, None), cap=False)
    assert more.prior is not None
    more.prior.refit([prototype(0), prototype(1), prototype(2)], old.prior, (0, 1, None))
    assert more.prior(prototype(2).mean[None], torch.zeros(1, 1, DIM), torch.ones(1, 1)).argmax(1).tolist() == [2]
    back = Gate(DIM, ("a", "b"), settings)
    transfer_gate(back, more, (0, 1), cap=False)
    assert {key: tensor.tolist() for key, tensor in back.state_dict().items()} == {
        key: tensor.tolist() for key, tensor in old.state_dict().items()
    }


def test_prior_with_another_expert_is_that_of_all_prototypes_and_what_was_learned() -> None:
    old, more, all_three = (RouterPrior(DIM, experts, "centroid") for experts in (2, 3, 3))
    old.fit([prototype(0), prototype(1)])
    assert old.prototypes is not None
    old.prototypes.threshold.fill_(2.5)
    all_three.fit([prototype(0), prototype(2), prototype(1)])
    more.refit([prototype(0), prototype(2), prototype(1)], old, (0, None, 1))
    assert torch.equal(more.weight, all_three.weight)
    assert more.prototypes is not None
    assert float(more.prototypes.threshold) == NEVER
    with torch.no_grad():
        old.weight[1, 3] += 0.5
        old.bias[1] -= 0.25
    more.refit([prototype(0), prototype(2), prototype(1)], old, (0, None, 1))
    learned = torch.zeros(3, DIM)
    learned[2, 3] = 0.5
    torch.testing.assert_close(more.weight - all_three.weight, learned)
    torch.testing.assert_close(more.bias - all_three.bias, torch.tensor([0, 0, -0.25]))


def test_muted_gates_are_0_except_where_the_caller_restricts_the_experts() -> None:
    gates, muted = torch.full((3, 2), 0.5), torch.tensor([True, True, False])
    allowed = torch.tensor([[True, True], [True, False], [True, True]])
    assert mute_gates(gates, muted, allowed).tolist() == [[0, 0], [0.5, 0.5], [0.5, 0.5]]
    assert mute_gates(gates, muted, None).tolist() == [[0, 0], [0, 0], [0.5, 0.5]]


@pytest.mark.parametrize("other", [{"kind": "fixed"}, {"unit": "token"}])
def test_gate_settings_refuse_a_prior_where_it_has_no_effect(other: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="init `arrow` cannot be used"):
        GateSettings.model_validate({"init": "arrow", **other})
