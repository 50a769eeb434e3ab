"""Tests of `router.mtl_baselines`: all methods have the interface of DAO, equal their papers and can be resumed."""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from router.losses import LossWeighting
from router.mtl_baselines import DynamicWeightAverage, GradNorm, PCGrad, UncertaintyWeighting, build_weighting
from router.registry import ComparatorSettings, DAOSettings

NAMES = ("classes", "polarity")
KINDS = ("dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad")


def build(kind: str, **settings: float) -> LossWeighting:
    comparators = ComparatorSettings.model_validate(settings)
    return build_weighting(kind, NAMES, DAOSettings(), {"classes": 1.0, "polarity": 2.0}, 3, comparators)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def steps(weighting: LossWeighting, count: int, start: int = 0) -> list[dict[str, float]]:
    """Return the log values of several steps with two losses of a shared state."""
    values = []
    for i in range(start, start + count):
        x = torch.tensor([1.0 + 0.1 * i, 2.0, -1.0], requires_grad=True)
        losses = {"classes": (x[:2] ** 2).sum(), "polarity": (x[0] - 3 * x[1]) ** 2 / (1 + i)}
        weighting.combine(losses, at=[x])
        values.append(weighting.log_values())
    return values


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_has_the_same_interface(kind: str) -> None:
    weighting = build(kind)
    for values in steps(weighting, 3):
        assert all(math.isfinite(value) for value in values.values())
        assert {"w_classes", "w_polarity"} <= values.keys()
    weighting.observe("classes", 1.0)
    weights = weighting.weights({"classes": scalar(1.0), "polarity": None})
    assert set(weights) == {"classes"}
    assert not any(weight.requires_grad for weight in weights.values())
    assert weighting.combine({"classes": scalar(math.nan)}).item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_method_continues_identically(kind: str) -> None:
    expected = steps(build(kind, dwa_every=2), 8)[5:]
    first, second = build(kind, dwa_every=2), build(kind, dwa_every=2)
    steps(first, 5)
    second.load_state_dict(load(save({key: value.contiguous() for key, value in first.state_dict().items()})))
    assert steps(second, 3, start=5) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_state_does_not_change_under_no_grad(kind: str) -> None:
    weighting = build(kind, dwa_every=1)
    steps(weighting, 2)
    before = weighting.state_dict()
    with torch.no_grad():
        for value in (5.0, 50.0):
            weighting.combine({"classes": torch.tensor(value), "polarity": torch.tensor(1.0)})
    after = weighting.state_dict()
    keys = [key for key in before if key != "values"]  # the last loss values may change
    assert all(torch.equal(before[key], after[key]) for key in keys)


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_changes_the_global_random_state(kind: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    steps(build(kind), 3)
    torch.testing.assert_close(torch.rand(3), expected)


def test_equal_and_constant_weights() -> None:
    assert steps(build("equal"), 1) == [{"w_classes": 1.0, "w_polarity": 1.0}]
    assert steps(build("constant"), 1) == [{"w_classes": 1.0, "w_polarity": 2.0}]


def test_uncertainty_converges_to_the_inverse_of_the_loss() -> None:
    weighting = UncertaintyWeighting(NAMES, ComparatorSettings(lr=0.05))
    for _ in range(600):
        weighting.weights({"classes": scalar(4.0), "polarity": scalar(0.25)})
    values = weighting.log_values()
    assert values["w_classes"] == pytest.approx(0.25, rel=0.05)
    assert values["w_polarity"] == pytest.approx(4.0, rel=0.05)


def test_uncertainty_of_an_absent_loss_does_not_change() -> None:
    weighting = UncertaintyWeighting(NAMES)
    for _ in range(20):
        weighting.weights({"classes": scalar(4.0)})
    assert weighting.weights({"polarity": scalar(1.0)})["polarity"].item() == pytest.approx(1.0)


def test_dwa_favors_the_loss_that_falls_more_slowly() -> None:
    weighting = DynamicWeightAverage(NAMES, ComparatorSettings(dwa_every=2))
    weights = [weighting.weights({"classes": scalar(0.5 ** (i // 2)), "polarity": scalar(1.0)}) for i in range(6)]
    assert [w["classes"].item() for w in weights[:4]] == [1.0] * 4  # no two periods yet
    expected = 2 * torch.softmax(torch.tensor([0.5, 1.0]) / 2.0, 0)
    torch.testing.assert_close(torch.stack([weights[4]["classes"], weights[4]["polarity"]]), expected)


def test_gradnorm_equalizes_weighted_norms_of_equally_falling_losses() -> None:
    weighting = GradNorm(NAMES, ComparatorSettings(lr=0.01, gradnorm_alpha=0.0))
    for _ in range(800):
        weighting.weights({"classes": scalar(1.0), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 3.0})
    w = weighting.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    assert w["classes"].item() == pytest.approx(3 * w["polarity"].item(), rel=0.05)
    assert sum(value.item() for value in w.values()) == pytest.approx(2.0)


def test_gradnorm_favors_the_loss_that_falls_more_slowly() -> None:
    weighting = GradNorm(NAMES, ComparatorSettings(lr=0.01, gradnorm_alpha=1.5))
    for i in range(300):
        losses = {"classes": scalar(1.0), "polarity": scalar(max(0.1, 1.0 - i / 100))}
        values = weighting.weights(losses, {"classes": 1.0, "polarity": 1.0})
    assert values["classes"] > 1.5 > values["polarity"]


def test_pcgrad_is_the_sum_of_the_projected_gradients() -> None:
    x = torch.zeros(2, requires_grad=True)
    losses = {"classes": x[0], "polarity": -x[0] + x[1]}  # gradients (1, 0) and (−1, 1): they conflict
    weighting = PCGrad(NAMES)
    (gradient,) = torch.autograd.grad(weighting.combine(losses, at=[x]), x)
    first = torch.tensor([1.0, 0.0]) + 0.5 * torch.tensor([-1.0, 1.0])  # g1 without its part along g2
    second = torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])  # g2 without its part along g1
    torch.testing.assert_close(gradient, first + second)


def test_pcgrad_does_not_change_gradients_without_conflict() -> None:
    x = torch.zeros(2, requires_grad=True)
    weighting = PCGrad(NAMES)
    (gradient,) = torch.autograd.grad(weighting.combine({"classes": x[0], "polarity": x.sum()}, at=[x]), x)
    torch.testing.assert_close(gradient, torch.tensor([2.0, 1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_a_small_model(kind: str) -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(4, 8), nn.Linear(8, 2)
    inputs = torch.randn(64, 4)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
    weighting = build(kind, dwa_every=10)
    history = []
    for _ in range(200):
        h = body(inputs).tanh()
        out = head(h)
        losses = {"classes": (out[:, 0] - inputs[:, 0]).square().mean(), "polarity": (out[:, 1] + 1).square().mean()}
        optimizer.zero_grad()
        weighting.combine(losses, at=h).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < 0.4 * history[0][name] for name in NAMES)
