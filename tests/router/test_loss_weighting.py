"""Tests of the weights of `router.losses`: sums, relative weights and their bounds, gradients, states of optimizers."""

import math

import pytest
import torch
from torch import Tensor

from router.losses import (
    ConstantWeighting,
    finite_losses,
    gradient_norms,
    load_optimizer_state,
    loss_gradients,
    optimizer_state,
    relative_weights,
    weighted_sum,
    weights_by_rows,
)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def test_weights_apply_to_the_rows_that_carry_both_losses() -> None:
    weights = {"classes": torch.tensor(0.4), "polarity": torch.tensor(1.6)}
    assert weights_by_rows(weights, {"classes": 12, "polarity": 12}) == weights
    partial = weights_by_rows(weights, {"classes": 12, "polarity": 3})
    assert partial["classes"].item() == pytest.approx(0.75 + 0.25 * 0.4)
    assert partial["polarity"].item() == pytest.approx(0.25 * 1.6)
    alone = {"classes": torch.tensor(1.0)}
    assert weights_by_rows(alone, {"classes": 12}) == alone
    scores_only = {"polarity": torch.tensor(1.0)}
    assert weights_by_rows(scores_only, {"polarity": 12}) == scores_only


def test_missing_and_non_finite_losses_are_left_out() -> None:
    losses = {"a": torch.tensor(1.0), "b": None, "c": torch.tensor(math.nan), "d": torch.tensor(-math.inf)}
    assert list(finite_losses(losses)) == ["a"]


def test_weighted_sum_covers_the_losses_with_a_weight_only() -> None:
    losses = {"a": scalar(2.0), "b": scalar(3.0), "c": None}
    total = weighted_sum(losses, {"a": torch.tensor(0.5)})
    total.backward()
    assert total.item() == 1.0
    assert losses["a"] is not None
    assert losses["a"].grad == 0.5
    assert losses["b"] is not None
    assert losses["b"].grad is None


@pytest.mark.parametrize("seed", range(20))
def test_relative_weights_stay_within_bounds_and_keep_the_reference_at_1(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = {name: (8 * torch.randn((), generator=random)).exp() for name in "abc"}
    relative = relative_weights(weights, "a", (0.02, 2.0))
    assert relative["a"] == 1.0
    for name in "bc":
        assert 0.02 <= relative[name] <= 2.0 + 1e-6
        if 0.02 <= weights[name] / weights["a"] <= 2.0:
            torch.testing.assert_close(relative[name], weights[name] / weights["a"])
    scaled = relative_weights({name: 7 * weight for name, weight in weights.items()}, "a", (0.02, 2.0))
    assert all(scaled[name].item() == pytest.approx(relative[name].item(), rel=1e-5) for name in "abc")


@pytest.mark.parametrize("seed", range(20))
def test_weights_by_rows_are_positive_and_change_with_the_share_without_a_jump(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    weights = {name: 3 * torch.rand((), generator=random) for name in ("classes", "polarity")}
    rows = int(torch.randint(1, 50, (), generator=random))
    partial = weights_by_rows(weights, {"classes": 50, "polarity": rows})
    assert all(weight >= 0 for weight in partial.values())
    assert (
        min(1.0, weights["classes"].item()) <= partial["classes"] + 1e-6 <= max(1.0, weights["classes"].item()) + 2e-6
    )
    assert partial["polarity"] <= weights["polarity"]
    none = weights_by_rows(weights, {"classes": 50, "polarity": 0})
    assert (none["classes"].item(), none["polarity"].item()) == (1.0, 0.0)
    more = weights_by_rows(weights, {"classes": 10, "polarity": 50})
    assert all(more[name].item() == pytest.approx(weights[name].item(), rel=1e-5) for name in weights)


def test_loss_gradients_are_one_vector_with_zeros_for_unused_inputs() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(1, 2, requires_grad=True)
    frozen = torch.ones(3)
    losses = {"both": (x * torch.tensor([1.0, 2.0])).sum() + 3 * y.sum(), "one": x.sum(), "none": torch.tensor(1.0)}
    gradients = loss_gradients(losses, [x, frozen, y])
    assert {name: vector.tolist() for name, vector in gradients.items()} == {
        "both": [1.0, 2.0, 3.0, 3.0],
        "one": [1.0, 1.0, 0.0, 0.0],
        "none": [0.0] * 4,
    }
    assert loss_gradients({"a": x.sum()}, [frozen])["a"].shape == (0,)


def test_gradients_can_be_measured_again_before_the_backward_pass() -> None:
    x = torch.ones(3, requires_grad=True)
    losses = {"a": x.square().sum(), "b": x.exp().sum()}
    first = gradient_norms(losses, [x], {})
    second = gradient_norms(losses, [x], {})
    assert first == second
    sum(losses.values(), torch.zeros(())).backward()
    assert x.grad is not None


def test_constant_weighting_has_no_state_and_logs_its_weights() -> None:
    weighting = ConstantWeighting({"classes": 1.0, "polarity": 0.5})
    assert weighting.state_dict() == {}
    weighting.load_state_dict({})
    weighting.observe("classes", 3.0)
    assert weighting.log_values() == {"w_classes": 1.0, "w_polarity": 0.5}
    assert weighting.update_due
    total = weighting.combine({"classes": scalar(2.0), "polarity": scalar(4.0)})
    assert total.item() == 4.0


def test_optimizer_moments_are_restored_by_name() -> None:
    def optimizer() -> tuple[torch.optim.Adam, list[torch.Tensor]]:
        parameters = [torch.ones(2, requires_grad=True), torch.ones((), requires_grad=True)]
        return torch.optim.Adam(parameters, lr=0.1), parameters

    def step(adam: torch.optim.Adam, parameters: list[torch.Tensor], factor: float) -> None:
        for parameter in parameters:
            parameter.grad = torch.full_like(parameter, factor)
        adam.step()

    first, values = optimizer()
    assert optimizer_state(first) == {}
    for factor in (1.0, -3.0):
        step(first, values, factor)
    state = optimizer_state(first)
    assert sorted(state) == sorted(f"adam.{i}.{key}" for i in (0, 1) for key in ("step", "exp_avg", "exp_avg_sq"))
    second, others = optimizer()
    with torch.no_grad():
        for other, value in zip(others, values, strict=True):
            other.copy_(value)
    load_optimizer_state(second, {**state, "net.weight": torch.ones(1)})
    for adam, parameters in ((first, values), (second, others)):
        step(adam, parameters, 0.5)
    for other, value in zip(others, values, strict=True):
        assert torch.equal(other, value)
