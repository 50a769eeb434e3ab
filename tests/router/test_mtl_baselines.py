"""Claims about `router.mtl_baselines`.

Each method is its paper's, behind DAO's surface, and goes on where it stopped.
"""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from router.dao import DAOSettings
from router.loss_weighting import LossWeighting
from router.mtl_baselines import DynamicWeightAverage, GradNorm, PCGrad, UncertaintyWeighting, build_weighting
from router.registry import ComparatorSettings

NAMES = ("classes", "polarity")
KINDS = ("dao", "constant", "equal", "uncertainty", "dwa", "gradnorm", "pcgrad")


def made(kind: str, **settings: float) -> LossWeighting:
    chosen = ComparatorSettings.model_validate(settings)
    return build_weighting(kind, NAMES, DAOSettings(), {"classes": 1.0, "polarity": 2.0}, 3, chosen)


def scalar(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def steps(one: LossWeighting, count: int, start: int = 0) -> list[dict[str, float]]:
    """What a method says over some steps of two losses that pull a state about."""
    seen = []
    for i in range(start, start + count):
        x = torch.tensor([1.0 + 0.1 * i, 2.0, -1.0], requires_grad=True)
        losses = {"classes": (x[:2] ** 2).sum(), "polarity": (x[0] - 3 * x[1]) ** 2 / (1 + i)}
        one.combine(losses, at=[x])
        seen.append(one.log_values())
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_stands_behind_the_same_surface(kind: str) -> None:
    one = made(kind)
    for said in steps(one, 3):
        assert all(math.isfinite(value) for value in said.values())
        assert {"w_classes", "w_polarity"} <= said.keys()
    one.observe("classes", 1.0)
    found = one.weights({"classes": scalar(1.0), "polarity": None})
    assert set(found) == {"classes"}
    assert not any(weight.requires_grad for weight in found.values())
    assert one.combine({"classes": scalar(math.nan)}).item() == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(kind: str) -> None:
    whole = made(kind, dwa_every=2)
    expected = steps(whole, 8)[5:]
    first, second = made(kind, dwa_every=2), made(kind, dwa_every=2)
    steps(first, 5)
    second.restore(load(save({key: value.contiguous() for key, value in first.state().items()})))
    assert steps(second, 3, start=5) == expected


@pytest.mark.parametrize("kind", KINDS)
def test_a_loop_without_gradients_teaches_no_method(kind: str) -> None:
    one = made(kind, dwa_every=1)
    steps(one, 2)
    before = one.state()
    with torch.no_grad():
        for value in (5.0, 50.0):
            one.combine({"classes": torch.tensor(value), "polarity": torch.tensor(1.0)})
    after = one.state()
    kept = [key for key in before if key not in ("values",)]  # the last value seen of a loss is no lesson
    assert all(torch.equal(before[key], after[key]) for key in kept)


@pytest.mark.parametrize("kind", KINDS)
def test_no_method_draws_from_the_loops_own_random_numbers(kind: str) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    steps(made(kind), 3)
    torch.testing.assert_close(torch.rand(3), expected)


def test_equal_is_one_for_all_and_constant_what_was_asked_for() -> None:
    assert steps(made("equal"), 1) == [{"w_classes": 1.0, "w_polarity": 1.0}]
    assert steps(made("constant"), 1) == [{"w_classes": 1.0, "w_polarity": 2.0}]


def test_uncertainty_settles_where_the_weight_is_one_over_the_loss() -> None:
    one = UncertaintyWeighting(NAMES, ComparatorSettings(lr=0.05))
    for _ in range(600):
        one.weights({"classes": scalar(4.0), "polarity": scalar(0.25)})
    said = one.log_values()
    assert said["w_classes"] == pytest.approx(0.25, rel=0.05)
    assert said["w_polarity"] == pytest.approx(4.0, rel=0.05)


def test_uncertainty_learns_nothing_about_a_loss_that_is_absent() -> None:
    one = UncertaintyWeighting(NAMES)
    for _ in range(20):
        one.weights({"classes": scalar(4.0)})
    assert one.weights({"polarity": scalar(1.0)})["polarity"].item() == pytest.approx(1.0)


def test_dwa_gives_more_to_the_loss_that_falls_slower() -> None:
    one = DynamicWeightAverage(NAMES, ComparatorSettings(dwa_every=2))
    seen = [one.weights({"classes": scalar(0.5 ** (i // 2)), "polarity": scalar(1.0)}) for i in range(6)]
    assert [w["classes"].item() for w in seen[:4]] == [1.0] * 4  # no two periods yet
    expected = 2 * torch.softmax(torch.tensor([0.5, 1.0]) / 2.0, 0)
    torch.testing.assert_close(torch.stack([seen[4]["classes"], seen[4]["polarity"]]), expected)


def test_gradnorm_brings_weighed_norms_together_when_losses_fall_alike() -> None:
    one = GradNorm(NAMES, ComparatorSettings(lr=0.01, gradnorm_alpha=0.0))
    for _ in range(800):
        one.weights({"classes": scalar(1.0), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 3.0})
    w = one.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    assert w["classes"].item() == pytest.approx(3 * w["polarity"].item(), rel=0.05)
    assert sum(value.item() for value in w.values()) == pytest.approx(2.0)


def test_gradnorm_pushes_the_loss_that_lags_behind() -> None:
    one = GradNorm(NAMES, ComparatorSettings(lr=0.01, gradnorm_alpha=1.5))
    for i in range(300):
        losses = {"classes": scalar(1.0), "polarity": scalar(max(0.1, 1.0 - i / 100))}
        said = one.weights(losses, {"classes": 1.0, "polarity": 1.0})
    assert said["classes"] > 1.5 > said["polarity"]


def test_pcgrad_is_the_projected_sum_of_the_gradients() -> None:
    x = torch.zeros(2, requires_grad=True)
    losses = {"classes": x[0], "polarity": -x[0] + x[1]}  # gradients (1, 0) and (−1, 1): they conflict
    one = PCGrad(NAMES)
    (found,) = torch.autograd.grad(one.combine(losses, at=[x]), x)
    first = torch.tensor([1.0, 0.0]) + 0.5 * torch.tensor([-1.0, 1.0])  # g1 off g2
    second = torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])  # g2 off g1
    torch.testing.assert_close(found, first + second)


def test_pcgrad_leaves_gradients_that_agree_alone() -> None:
    x = torch.zeros(2, requires_grad=True)
    one = PCGrad(NAMES)
    (found,) = torch.autograd.grad(one.combine({"classes": x[0], "polarity": x.sum()}, at=[x]), x)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0]))


@pytest.mark.parametrize("kind", KINDS)
def test_every_method_trains_a_toy(kind: str) -> None:
    torch.manual_seed(0)
    body, head = nn.Linear(4, 8), nn.Linear(8, 2)
    inputs = torch.randn(64, 4)
    optimizer = torch.optim.Adam([*body.parameters(), *head.parameters()], lr=0.02)
    one = made(kind, dwa_every=10)
    history = []
    for _ in range(200):
        h = body(inputs).tanh()
        out = head(h)
        losses = {"classes": (out[:, 0] - inputs[:, 0]).square().mean(), "polarity": (out[:, 1] + 1).square().mean()}
        optimizer.zero_grad()
        one.combine(losses, at=h).backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < 0.4 * history[0][name] for name in NAMES)
