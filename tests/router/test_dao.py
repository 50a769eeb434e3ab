"""Tests of `router.dao`: equal to the paper's equations where they are valid, bounded where they are not."""

import math
from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from router.dao import DAO, difficulty
from router.losses import ConstantWeighting, gradient_norms, relative_weights
from router.mtl_baselines import build_weighting
from router.registry import DAOSettings

PAPER = DAOSettings(ema=0.0, norm_floor=0.0, weight_floor=0.0)
NAMES = ("classes", "polarity")


def two_losses(x: Tensor) -> dict[str, Tensor]:
    """Two losses whose gradients at x are (3, 4) and (0, 2): norms 5 and 2."""
    return {"classes": 3 * x[0] + 4 * x[1], "polarity": 2 * x[1]}


def scalar(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def steps(dao: DAO, count: int, start: int = 0) -> list[dict[str, float]]:
    """Return the weights of several steps with changing losses and norms."""
    weights = []
    for i in range(start, start + count):
        losses = {"classes": scalar(1.0 + 0.1 * i), "polarity": scalar(2.0 / (1 + i))}
        step_weights = dao.weights(losses, {"classes": 1.0 + i, "polarity": 3.0})
        weights.append({name: weight.item() for name, weight in step_weights.items()})
    return weights


# Difficulty


def test_lambda_equals_equation_11() -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    dao = DAO(NAMES, PAPER)
    dao.combine(two_losses(x), at=[x])
    values = dao.log_values()
    assert values["lambda_classes"] == pytest.approx(2 / 7)
    assert values["lambda_polarity"] == pytest.approx(5 / 7)


def test_lambda_is_proportional_to_the_inverse_norm() -> None:
    torch.testing.assert_close(difficulty(torch.tensor([1.0, 2.0, 4.0])), torch.tensor([4.0, 2.0, 1.0]) / 7)


def test_norm_floor_does_not_change_norms_above_it() -> None:
    norms = torch.tensor([1.0, 9.0])
    torch.testing.assert_close(difficulty(norms, 0.1), difficulty(norms, 0.0))


@pytest.mark.parametrize("small", [0.0, 1e-30, 1e-3])
def test_norm_floor_limits_lambda_of_a_saturated_loss(small: float) -> None:
    torch.testing.assert_close(difficulty(torch.tensor([small, 1.0])), torch.tensor([10.0, 1.0]) / 11)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_zero_norms_have_equal_lambda(floor: float) -> None:
    assert difficulty(torch.zeros(4), floor).tolist() == [0.25] * 4


@pytest.mark.parametrize("norms", [[0.0, 1e3], [1e-38, 1e30], [0.0, 0.0, 5.0]])
def test_lambda_without_a_floor_is_never_nan(norms: list[float]) -> None:
    lam = difficulty(torch.tensor(norms), 0.0)
    assert lam.isfinite().all()
    assert lam.sum().item() == pytest.approx(1.0)


def test_norm_average_is_bias_corrected() -> None:
    dao = DAO(NAMES, DAOSettings(ema=0.9, norm_floor=0.0))
    for norm in (1.0, 3.0):
        dao.observe("classes", norm)
    dao.observe("polarity", 1.0)
    dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    mean = (0.9 * 0.1 * 1.0 + 0.1 * 3.0) / (1 - 0.9**2)
    assert dao.log_values()["lambda_polarity"] == pytest.approx(mean / (1 + mean))


def test_losses_have_equal_weight_until_every_norm_is_known() -> None:
    dao = DAO(("sentiment", "domain", "balance"))
    losses = {name: scalar(1.0) for name in dao.names}
    first = dao.weights(losses, {"domain": 9.0, "balance": 1.0})
    assert [first[name].item() for name in dao.names] == pytest.approx([1.0] * 3)
    dao.observe("sentiment", 1.0)  # as a hook does during the backward pass
    second = dao.weights(losses, {"domain": 9.0, "balance": 1.0})
    assert second["sentiment"] > second["domain"]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_norm_that_is_not_finite_is_ignored(norm: float) -> None:
    dao = DAO(NAMES)
    before = dao.state_dict()["average"]
    dao.observe("classes", norm)
    assert torch.equal(dao.state_dict()["average"], before)
    assert dao.state_dict()["seen"].tolist() == [0.0, 0.0]


# Where norms are measured


def test_norm_at_the_pooled_state_equals_autograd() -> None:
    h = torch.randn(4, 3, requires_grad=True)
    loss = h.square().mean()
    expected = 2.0 * math.sqrt(4) * (h.detach() * 2 / 12).norm()
    torch.testing.assert_close(gradient_norms({"a": 2.0 * loss}, h, {})["a"], expected)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_norm_at_the_pooled_state_is_independent_of_the_number_of_rows(rows: int) -> None:
    h, gradient = torch.randn(4, 3, requires_grad=True), torch.tensor([1.0, 2.0, 2.0])
    loss = (h[:rows] @ gradient).mean()
    assert gradient_norms({"a": loss}, h, {"a": rows})["a"].item() == pytest.approx(3.0)


def test_norm_at_parameters_covers_all_of_an_iterable() -> None:
    layer = nn.Linear(2, 1)
    losses = {"a": layer(torch.tensor([2.0, 1.0])).sum(), "b": 2 * layer(torch.tensor([2.0, 1.0])).sum()}
    norms = gradient_norms(losses, layer.parameters(), {})
    assert {name: norm.item() for name, norm in norms.items()} == pytest.approx({"a": 6**0.5, "b": 2 * 6**0.5})


def test_loss_that_does_not_depend_on_the_state_has_norm_0() -> None:
    h, elsewhere = torch.ones(2, 2, requires_grad=True), scalar(1.0)
    assert [n.item() for n in gradient_norms({"a": elsewhere * 2, "b": torch.tensor(1.0)}, h, {}).values()] == [
        0.0,
        0.0,
    ]


def test_norms_can_be_given_instead_of_at() -> None:
    x = torch.ones(2, requires_grad=True)
    first, second = DAO(NAMES, PAPER), DAO(NAMES, PAPER)
    assert first.combine(two_losses(x), at=[x]) == second.combine(
        two_losses(x), norms={"classes": 5.0, "polarity": 2.0}
    )


# Weights


def test_equal_losses_have_weight_1() -> None:
    for n in (1, 2, 3, 5):
        names = [f"loss{i}" for i in range(n)]
        weights = DAO(names).weights({name: scalar(3.0) for name in names}, dict.fromkeys(names, 1.0))
        assert [c.item() for c in weights.values()] == pytest.approx([1.0] * n)


def test_coefficients_are_n_squared_lambda_w() -> None:
    dao = DAO(NAMES)
    steps(dao, 30)
    values = dao.log_values()
    for name in NAMES:
        assert values[f"c_{name}"] == pytest.approx(4 * values[f"lambda_{name}"] * values[f"w_{name}"])
    assert values["w_classes"] + values["w_polarity"] == pytest.approx(1.0)


@pytest.mark.parametrize(("floor", "minimum"), [(None, 0.25), (0.1, 0.1), (0.0, 0.0)])
def test_weights_stay_above_the_weight_floor(floor: float | None, minimum: float) -> None:
    dao = DAO(NAMES, DAOSettings(weight_floor=floor, lr=0.1))
    for _ in range(300):
        dao.weights({"classes": scalar(50.0), "polarity": scalar(0.01)}, {"classes": 1.0, "polarity": 1.0})
    assert dao.log_values()["w_classes"] == pytest.approx(minimum, abs=1e-2)
    assert dao.log_values()["w_classes"] >= minimum - 1e-6


def test_weight_net_favors_the_smaller_loss() -> None:
    dao = DAO(NAMES)
    for _ in range(200):
        dao.weights({"classes": scalar(2.0), "polarity": scalar(0.1)}, {"classes": 1.0, "polarity": 1.0})
    assert dao.log_values()["w_polarity"] > 0.55


def test_weights_have_no_gradient_for_the_model() -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    dao = DAO(NAMES)
    for _ in range(20):
        total = dao.combine(two_losses(x), at=[x])
    (gradient,) = torch.autograd.grad(total, x)
    values = dao.log_values()
    expected = values["c_classes"] * torch.tensor([3.0, 4.0]) + values["c_polarity"] * torch.tensor([0.0, 2.0])
    torch.testing.assert_close(gradient, expected)
    assert not any(c.requires_grad for c in dao.weights(two_losses(x)).values())


def test_relative_weights_are_bounded() -> None:
    weights = {"sentiment": torch.tensor(0.5), "domain": torch.tensor(5.0), "balance": torch.tensor(0.001)}
    relative = {name: c.item() for name, c in relative_weights(weights, "sentiment", (0.02, 2.0)).items()}
    assert relative == pytest.approx({"sentiment": 1.0, "domain": 2.0, "balance": 0.02})


# What is missing or broken


@pytest.mark.parametrize("factor", [None, math.nan, math.inf])
def test_single_present_loss_is_unchanged(factor: float | None) -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    dao = DAO(NAMES)
    steps(dao, 5)
    losses: Mapping[str, Tensor | None] = {
        "classes": two_losses(x)["classes"],
        "polarity": None if factor is None else x.sum() * factor,
    }
    total = dao.combine(losses, at=[x])
    total.backward()
    assert total.item() == pytest.approx(7.0)
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([3.0, 4.0])


def test_step_with_a_single_loss_does_not_change_the_weight_net() -> None:
    dao = DAO(NAMES)
    steps(dao, 5)
    before = dao.state_dict()
    dao.weights({"classes": scalar(1.0)}, {"classes": 1.0})
    assert all(torch.equal(before[key], value) for key, value in dao.state_dict().items() if key.startswith("net."))


def test_two_present_of_three_losses_share_all_weight() -> None:
    dao = DAO(("a", "b", "c"))
    weights = dao.weights({"a": scalar(1.0), "c": scalar(1.0)}, {"a": 1.0, "c": 3.0})
    assert set(weights) == {"a", "c"}
    assert {name: c.item() for name, c in weights.items()} == pytest.approx({"a": 1.5, "c": 0.5})
    assert "w_b" not in dao.log_values()


@pytest.mark.parametrize("weighting", [DAO(NAMES), ConstantWeighting({"classes": 1.0, "polarity": 0.5})])
def test_step_without_finite_losses_has_a_backward_pass_without_gradient(weighting: DAO | ConstantWeighting) -> None:
    x = torch.ones(2, requires_grad=True)
    total = weighting.combine({"classes": x.sum() * math.nan, "polarity": None}, at=[x])
    total.backward()
    assert total.item() == 0.0
    assert x.grad is None


def test_state_does_not_change_under_no_grad() -> None:
    dao = DAO(NAMES)
    steps(dao, 5)
    before = dao.state_dict()
    with torch.no_grad():
        steps(dao, 3)
    assert all(torch.equal(before[key], value) for key, value in dao.state_dict().items())


def test_construction_does_not_change_the_global_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DAO(NAMES, seed=9)
    assert torch.equal(torch.rand(2), expected)


# α and β

ROWS, LABELS = torch.tensor([0.5] * 7 + [1.0] * 2 + [2.0]), torch.tensor([0] * 7 + [1] * 2 + [2])


def run_imbalance(mode: str, count: int, **overrides: float) -> tuple[DAO, Tensor]:
    dao = DAO(NAMES, DAOSettings.model_validate({"imbalance": mode, **overrides}))
    for _ in range(count):
        loss = dao.imbalance_loss(ROWS, LABELS, 3)
        dao.weights({"classes": loss.requires_grad_(), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 1.0})
    return dao, loss


def test_fixed_alpha_and_beta_do_not_change() -> None:
    values = run_imbalance("fixed", 20, alpha=0.2, beta=0.4)[0].log_values()
    assert (values["alpha"], values["beta"]) == pytest.approx((0.2, 0.4))


def test_learned_alpha_and_beta_fall_to_their_bound_of_0() -> None:
    values = run_imbalance("learn", 200, alpha=0.2, beta=0.4, lr=0.01)[0].log_values()
    assert (values["alpha"], values["beta"]) == (0.0, 0.0)


def test_paper_beta_rises_to_its_bound_of_1_with_a_finite_loss() -> None:
    dao, loss = run_imbalance("paper", 400, alpha=1.0, beta=0.5, lr=0.02)
    assert (dao.log_values()["alpha"], dao.log_values()["beta"]) == (0.0, 1.0)
    assert 0 <= loss.item() < 10


def test_alpha_gradient_is_scaled_by_lambda_and_w_of_the_loss() -> None:
    dao = DAO(NAMES, DAOSettings(imbalance="learn", alpha=0.3))
    gradients: list[Tensor | None] = []
    dao.optimizer.register_step_pre_hook(lambda *_: gradients.append(dao.alpha.grad))
    dao.imbalance_loss(ROWS, LABELS, 3)
    dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 4.0})
    frequency = torch.tensor([0.7, 0.2, 0.1])
    equation_16 = -0.8 * 0.5 * (frequency**-0.5 * frequency.log()).sum()  # λ = 4/5, w = 1/2
    assert gradients[0] is not None
    torch.testing.assert_close(gradients[0], equation_16)


def test_imbalance_gradients_of_heads_are_averaged_by_rows() -> None:
    settings = DAOSettings(imbalance="learn", alpha=0.3)
    single, several = DAO(NAMES, settings), DAO(NAMES, settings)
    gradients: list[Tensor] = []
    for dao, heads in ((single, (ROWS,)), (several, (ROWS, ROWS))):
        dao.optimizer.register_step_pre_hook(lambda *_, dao=dao: gradients.append(dao.beta.grad))
        for rows in heads:
            dao.imbalance_loss(rows, LABELS, 3)
        dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    torch.testing.assert_close(*gradients)


def test_batch_that_is_not_finite_leaves_alpha_and_beta_finite() -> None:
    dao = DAO(NAMES, DAOSettings(imbalance="learn"))
    loss = dao.imbalance_loss(ROWS * math.nan, LABELS, 3)
    dao.weights({"classes": loss, "polarity": scalar(1.0)})
    assert math.isfinite(dao.log_values()["beta"])
    assert dao.imbalance_loss(ROWS, LABELS, 3).isfinite()


# State, constants, settings


@pytest.mark.parametrize("mode", ["fixed", "learn"])
def test_training_from_a_restored_state_is_identical(mode: str) -> None:
    settings = DAOSettings.model_validate({"imbalance": mode})
    first, second = DAO(NAMES, settings, seed=1), DAO(NAMES, settings, seed=2)
    for _ in range(3):
        first.imbalance_loss(ROWS, LABELS, 3)
        steps(first, 2)
    second.load_state_dict(load(save(first.state_dict())))
    for dao in (first, second):
        dao.imbalance_loss(ROWS, LABELS, 3)
    assert steps(first, 5, start=7) == steps(second, 5, start=7)
    assert first.log_values() == second.log_values()


def test_state_dict_is_a_copy() -> None:
    dao = DAO(NAMES)
    steps(dao, 3)
    state = dao.state_dict()
    before = {key: value.clone() for key, value in state.items()}
    steps(dao, 3)
    assert all(torch.equal(before[key], state[key]) for key in state)


def test_initial_state_can_be_restored() -> None:
    first, second = DAO(NAMES, seed=1), DAO(NAMES, seed=2)
    second.load_state_dict(first.state_dict())
    assert steps(first, 3) == steps(second, 3)


def test_dao_trains_a_small_model_in_any_loop() -> None:
    torch.manual_seed(0)
    body, classes, score = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
    inputs = torch.randn(64, 6)
    labels, scores = inputs[:, :3].argmax(-1), inputs[:, 3].tanh()
    optimizer = torch.optim.Adam([*body.parameters(), *classes.parameters(), *score.parameters()], lr=0.02)
    dao = DAO(("classes", "polarity"))
    history = []
    for _ in range(150):
        h = body(inputs).tanh()
        losses = {
            "classes": nn.functional.cross_entropy(classes(h), labels),
            "polarity": nn.functional.mse_loss(score(h)[:, 0], scores),
        }
        total = dao.combine(losses, at=h)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    for name in losses:
        assert history[-1][name] < 0.3 * history[0][name]


def test_constant_weighting_has_the_interface_of_dao() -> None:
    x = torch.ones(2, requires_grad=True)
    totals = {}
    for kind in ("dao", "constant"):
        weighting = build_weighting(kind, NAMES, DAOSettings(), {"classes": 1.0, "polarity": 0.1, "other": 3.0})
        totals[kind] = weighting.combine(two_losses(x), at=[x], rows={"classes": 2}).item()
        weighting.observe("classes", 1.0)
        weighting.load_state_dict(weighting.state_dict())
        assert all(isinstance(value, float) for value in weighting.log_values().values())
    assert totals["constant"] == pytest.approx(7.0 + 0.1 * 2.0)


@pytest.mark.parametrize(
    "settings",
    [{"ema": 1.0}, {"beta": 1.5}, {"alpha": -1.0}, {"relative_bounds": (2.0, 0.1)}, {"objective": "none"}, {"lr": 0.0}],
)
def test_settings_out_of_bounds_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DAOSettings.model_validate(settings)


# Random losses and norms


def random_step(random: torch.Generator, names: tuple[str, ...]) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Losses and norms over many orders of magnitude."""
    losses = {name: (6 * torch.randn((), generator=random)).exp() for name in names}
    norms = {name: float((6 * torch.randn((), generator=random)).exp()) for name in names}
    return losses, norms


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("imbalance", ["fixed", "learn", "paper"])
def test_weights_are_positive_and_bounded_whatever_the_losses(seed: int, imbalance: str) -> None:
    random = torch.Generator().manual_seed(seed)
    names = tuple("abcd"[: 2 + seed % 3])
    n = len(names)
    dao = DAO(names, DAOSettings.model_validate({"imbalance": imbalance, "lr": 0.05}), seed=seed)
    for _ in range(25):
        dao.imbalance_loss((3 * torch.randn(10, generator=random)).exp(), torch.arange(10) % 3, 3, name="a")
        losses, norms = random_step(random, names)
        weights = dao.weights(losses, norms)
        values = dao.log_values()
        for name in names:
            assert 0 < weights[name] < n**2
            assert values[f"w_{name}"] >= 0.5 / n - 1e-6
            assert 1 / (1 + 10 * (n - 1)) - 1e-6 <= values[f"lambda_{name}"] <= 10 / (10 + n - 1) + 1e-6
        assert sum(values[f"w_{name}"] for name in names) == pytest.approx(1.0, abs=1e-5)
        assert sum(values[f"lambda_{name}"] for name in names) == pytest.approx(1.0, abs=1e-5)
        assert 0 <= values["alpha"] < 100
        assert 0 <= values["beta"] <= 1


@pytest.mark.parametrize("seed", range(10))
def test_difficulty_ignores_the_scale_and_follows_the_order_of_the_norms(seed: int) -> None:
    norms = (3 * torch.randn(5, generator=torch.Generator().manual_seed(seed))).exp()
    lam = difficulty(norms, 0.01)
    torch.testing.assert_close(difficulty(1e6 * norms, 0.01), lam)
    order = torch.randperm(5, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(difficulty(norms[order], 0.01), lam[order])
    assert (lam[norms.argsort()].diff() <= 1e-7).all(), "a larger gradient never gets a larger λ"
    assert lam.sum().item() == pytest.approx(1.0)
    assert lam.max() / lam.min() <= 100 * (1 + 1e-5)


def test_weights_do_not_depend_on_the_order_in_which_losses_are_given() -> None:
    first, second = DAO(("a", "b", "c"), seed=1), DAO(("a", "b", "c"), seed=1)
    random = torch.Generator().manual_seed(0)
    for _ in range(5):
        losses, norms = random_step(random, ("a", "b", "c"))
        weights = first.weights(losses, norms)
        other = second.weights(dict(reversed(losses.items())), dict(reversed(norms.items())))
        assert all(torch.equal(weights[name], other[name]) for name in "abc")


@pytest.mark.parametrize("every", [2, 5])
def test_weight_net_is_updated_once_in_every_few_steps(every: int) -> None:
    dao = DAO(NAMES, DAOSettings(every=every))
    changes = []
    for _ in range(2 * every + 1):
        before = dao.state_dict()
        due = dao.update_due
        dao.weights({"classes": scalar(1.0), "polarity": scalar(3.0)}, {"classes": 1.0, "polarity": 2.0})
        after = dao.state_dict()
        changed = any(not torch.equal(before[key], after[key]) for key in before if key.startswith("net."))
        assert changed is due
        changes.append(changed)
    assert sum(changes) == 3


def test_invalid_relative_bounds_are_refused_in_a_sentence() -> None:
    with pytest.raises(ValidationError, match="relative_bounds must be increasing"):
        DAOSettings(relative_bounds=(2.0, 0.1))
    assert DAOSettings(relative_bounds=(1.0, 1.0)).relative_bounds == (1.0, 1.0)
