"""Claims about `router.dao`: equal to the paper's equations where they are right, bounded where they are not."""

import math
from collections.abc import Mapping

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import Tensor, nn

from router.dao import DAO, DAOSettings, difficulty
from router.loss_weighting import ConstantWeighting, gradient_norms, relative_weights
from router.mtl_baselines import build_weighting

PAPER = DAOSettings(ema=0.0, norm_floor=0.0, weight_floor=0.0)
NAMES = ("classes", "polarity")


def two_losses(x: Tensor) -> dict[str, Tensor]:
    """Two losses whose gradients at x are (3, 4) and (0, 2): norms 5 and 2."""
    return {"classes": 3 * x[0] + 4 * x[1], "polarity": 2 * x[1]}


def scalar(value: float) -> Tensor:
    return torch.tensor(value, requires_grad=True)


def steps(dao: DAO, count: int, start: int = 0) -> list[dict[str, float]]:
    """What DAO says over some steps of drifting losses and norms."""
    seen = []
    for i in range(start, start + count):
        losses = {"classes": scalar(1.0 + 0.1 * i), "polarity": scalar(2.0 / (1 + i))}
        seen.append({k: v.item() for k, v in dao.weights(losses, {"classes": 1.0 + i, "polarity": 3.0}).items()})
    return seen


# Difficulty


def test_lambda_equals_equation_11_on_gradients_computed_by_hand() -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    dao = DAO(NAMES, PAPER)
    dao.combine(two_losses(x), at=[x])
    said = dao.log_values()
    assert said["lambda_classes"] == pytest.approx(2 / 7)
    assert said["lambda_polarity"] == pytest.approx(5 / 7)


def test_lambda_of_n_losses_goes_by_the_inverse_norm() -> None:
    torch.testing.assert_close(difficulty(torch.tensor([1.0, 2.0, 4.0])), torch.tensor([4.0, 2.0, 1.0]) / 7)


def test_two_norms_within_the_floor_are_untouched_by_it() -> None:
    norms = torch.tensor([1.0, 9.0])
    torch.testing.assert_close(difficulty(norms, 0.1), difficulty(norms, 0.0))


@pytest.mark.parametrize("small", [0.0, 1e-30, 1e-3])
def test_a_saturated_loss_cannot_take_all_the_difficulty(small: float) -> None:
    torch.testing.assert_close(difficulty(torch.tensor([small, 1.0])), torch.tensor([10.0, 1.0]) / 11)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_zero_norms_share_alike(floor: float) -> None:
    assert difficulty(torch.zeros(4), floor).tolist() == [0.25] * 4


@pytest.mark.parametrize("norms", [[0.0, 1e3], [1e-38, 1e30], [0.0, 0.0, 5.0]])
def test_lambda_without_a_floor_is_never_nan(norms: list[float]) -> None:
    lam = difficulty(torch.tensor(norms), 0.0)
    assert lam.isfinite().all()
    assert lam.sum().item() == pytest.approx(1.0)


def test_average_of_norms_is_bias_corrected() -> None:
    dao = DAO(NAMES, DAOSettings(ema=0.9, norm_floor=0.0))
    for norm in (1.0, 3.0):
        dao.observe("classes", norm)
    dao.observe("polarity", 1.0)
    dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    mean = (0.9 * 0.1 * 1.0 + 0.1 * 3.0) / (1 - 0.9**2)
    assert dao.log_values()["lambda_polarity"] == pytest.approx(mean / (1 + mean))


def test_before_every_norm_is_known_losses_count_alike() -> None:
    dao = DAO(("sentiment", "domain", "balance"))
    losses = {name: scalar(1.0) for name in dao.names}
    first = dao.weights(losses, {"domain": 9.0, "balance": 1.0})
    assert [first[name].item() for name in dao.names] == pytest.approx([1.0] * 3)
    dao.observe("sentiment", 1.0)  # as a hook in the backward does
    second = dao.weights(losses, {"domain": 9.0, "balance": 1.0})
    assert second["sentiment"] > second["domain"]


@pytest.mark.parametrize("norm", [math.nan, math.inf])
def test_a_norm_that_is_not_finite_is_passed_over(norm: float) -> None:
    dao = DAO(NAMES)
    before = dao.state_dict()["average"]
    dao.observe("classes", norm)
    assert torch.equal(dao.state_dict()["average"], before)
    assert dao.state_dict()["seen"].tolist() == [0.0, 0.0]


# Where norms are measured


def test_norm_at_the_pooled_state_equals_autograds_by_hand() -> None:
    h = torch.randn(4, 3, requires_grad=True)
    loss = h.square().mean()
    expected = 2.0 * math.sqrt(4) * (h.detach() * 2 / 12).norm()
    torch.testing.assert_close(gradient_norms({"a": 2.0 * loss}, h, {})["a"], expected)


@pytest.mark.parametrize("rows", [1, 2, 4])
def test_norm_at_the_pooled_state_does_not_depend_on_how_many_rows_carry_the_loss(rows: int) -> None:
    h, pull = torch.randn(4, 3, requires_grad=True), torch.tensor([1.0, 2.0, 2.0])
    loss = (h[:rows] @ pull).mean()
    assert gradient_norms({"a": loss}, h, {"a": rows})["a"].item() == pytest.approx(3.0)


def test_norm_at_parameters_is_taken_over_all_of_them_from_any_iterable() -> None:
    layer = nn.Linear(2, 1)
    losses = {"a": layer(torch.tensor([2.0, 1.0])).sum(), "b": 2 * layer(torch.tensor([2.0, 1.0])).sum()}
    found = gradient_norms(losses, layer.parameters(), {})
    assert {name: norm.item() for name, norm in found.items()} == pytest.approx({"a": 6**0.5, "b": 2 * 6**0.5})


def test_a_loss_that_does_not_reach_the_place_has_norm_zero() -> None:
    h, elsewhere = torch.ones(2, 2, requires_grad=True), scalar(1.0)
    assert [n.item() for n in gradient_norms({"a": elsewhere * 2, "b": torch.tensor(1.0)}, h, {}).values()] == [
        0.0,
        0.0,
    ]


def test_norms_measured_elsewhere_take_the_place_of_at() -> None:
    x = torch.ones(2, requires_grad=True)
    one, other = DAO(NAMES, PAPER), DAO(NAMES, PAPER)
    assert one.combine(two_losses(x), at=[x]) == other.combine(two_losses(x), norms={"classes": 5.0, "polarity": 2.0})


# Weights


def test_equal_difficulty_and_weight_leave_the_losses_as_they_are() -> None:
    for n in (1, 2, 3, 5):
        names = [f"loss{i}" for i in range(n)]
        found = DAO(names).weights({name: scalar(3.0) for name in names}, dict.fromkeys(names, 1.0))
        assert [c.item() for c in found.values()] == pytest.approx([1.0] * n)


def test_coefficients_are_n_squared_lambda_w() -> None:
    dao = DAO(NAMES)
    steps(dao, 30)
    said = dao.log_values()
    for name in NAMES:
        assert said[f"c_{name}"] == pytest.approx(4 * said[f"lambda_{name}"] * said[f"w_{name}"])
    assert said["w_classes"] + said["w_polarity"] == pytest.approx(1.0)


@pytest.mark.parametrize(("floor", "least"), [(None, 0.25), (0.1, 0.1), (0.0, 0.0)])
def test_no_weight_falls_below_its_floor(floor: float | None, least: float) -> None:
    dao = DAO(NAMES, DAOSettings(weight_floor=floor, lr=0.1))
    for _ in range(300):
        dao.weights({"classes": scalar(50.0), "polarity": scalar(0.01)}, {"classes": 1.0, "polarity": 1.0})
    assert dao.log_values()["w_classes"] == pytest.approx(least, abs=1e-2)
    assert dao.log_values()["w_classes"] >= least - 1e-6


def test_the_weight_net_flees_to_the_smaller_loss() -> None:
    dao = DAO(NAMES)
    for _ in range(200):
        dao.weights({"classes": scalar(2.0), "polarity": scalar(0.1)}, {"classes": 1.0, "polarity": 1.0})
    assert dao.log_values()["w_polarity"] > 0.55


def test_the_model_gets_no_gradient_through_the_weights() -> None:
    x = torch.tensor([0.5, 2.0], requires_grad=True)
    dao = DAO(NAMES)
    for _ in range(20):
        total = dao.combine(two_losses(x), at=[x])
    (found,) = torch.autograd.grad(total, x)
    said = dao.log_values()
    by_hand = said["c_classes"] * torch.tensor([3.0, 4.0]) + said["c_polarity"] * torch.tensor([0.0, 2.0])
    torch.testing.assert_close(found, by_hand)
    assert not any(c.requires_grad for c in dao.weights(two_losses(x)).values())


def test_relative_weights_are_in_sentiments_units_and_bounded() -> None:
    weights = {"sentiment": torch.tensor(0.5), "domain": torch.tensor(5.0), "balance": torch.tensor(0.001)}
    found = {name: c.item() for name, c in relative_weights(weights, "sentiment", (0.02, 2.0)).items()}
    assert found == pytest.approx({"sentiment": 1.0, "domain": 2.0, "balance": 0.02})


# What is missing or broken


@pytest.mark.parametrize("gone", [None, math.nan, math.inf])
def test_one_of_two_absent_leaves_the_other_as_it_is(gone: float | None) -> None:
    x = torch.tensor([1.0, 1.0], requires_grad=True)
    dao = DAO(NAMES)
    steps(dao, 5)
    losses: Mapping[str, Tensor | None] = {
        "classes": two_losses(x)["classes"],
        "polarity": None if gone is None else x.sum() * gone,
    }
    total = dao.combine(losses, at=[x])
    total.backward()
    assert total.item() == pytest.approx(7.0)
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([3.0, 4.0])


def test_a_step_with_one_loss_alone_leaves_the_weight_net_alone() -> None:
    dao = DAO(NAMES)
    steps(dao, 5)
    before = dao.state_dict()
    dao.weights({"classes": scalar(1.0)}, {"classes": 1.0})
    assert all(torch.equal(before[key], value) for key, value in dao.state_dict().items() if key.startswith("net."))


def test_of_three_losses_the_two_present_share_the_whole() -> None:
    dao = DAO(("a", "b", "c"))
    found = dao.weights({"a": scalar(1.0), "c": scalar(1.0)}, {"a": 1.0, "c": 3.0})
    assert set(found) == {"a", "c"}
    assert {name: c.item() for name, c in found.items()} == pytest.approx({"a": 1.5, "c": 0.5})
    assert "w_b" not in dao.log_values()


@pytest.mark.parametrize("weighting", [DAO(NAMES), ConstantWeighting({"classes": 1.0, "polarity": 0.5})])
def test_with_every_loss_broken_the_step_goes_back_and_moves_nothing(weighting: DAO | ConstantWeighting) -> None:
    x = torch.ones(2, requires_grad=True)
    total = weighting.combine({"classes": x.sum() * math.nan, "polarity": None}, at=[x])
    total.backward()
    assert total.item() == 0.0
    assert x.grad is None


def test_without_gradients_dao_weighs_and_learns_nothing() -> None:
    dao = DAO(NAMES)
    steps(dao, 5)
    before = dao.state_dict()
    with torch.no_grad():
        steps(dao, 3)
    assert all(torch.equal(before[key], value) for key, value in dao.state_dict().items())


def test_making_one_leaves_the_callers_random_numbers_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    DAO(NAMES, seed=9)
    assert torch.equal(torch.rand(2), expected)


# α and β

ROWS, LABELS = torch.tensor([0.5] * 7 + [1.0] * 2 + [2.0]), torch.tensor([0] * 7 + [1] * 2 + [2])


def run_imbalance(mode: str, count: int, **changed: float) -> tuple[DAO, Tensor]:
    dao = DAO(NAMES, DAOSettings.model_validate({"imbalance": mode, **changed}))
    for _ in range(count):
        loss = dao.imbalance(ROWS, LABELS, 3)
        dao.weights({"classes": loss.requires_grad_(), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 1.0})
    return dao, loss


def test_fixed_alpha_and_beta_stay() -> None:
    said = run_imbalance("fixed", 20, alpha=0.2, beta=0.4)[0].log_values()
    assert (said["alpha"], said["beta"]) == pytest.approx((0.2, 0.4))


def test_learned_by_their_true_gradient_both_fall_to_zero_and_stop_there() -> None:
    said = run_imbalance("learn", 200, alpha=0.2, beta=0.4, lr=0.01)[0].log_values()
    assert (said["alpha"], said["beta"]) == (0.0, 0.0)


def test_as_printed_beta_rises_to_its_bound_and_the_loss_stays_finite() -> None:
    dao, loss = run_imbalance("paper", 400, alpha=1.0, beta=0.5, lr=0.02)
    assert (dao.log_values()["alpha"], dao.log_values()["beta"]) == (0.0, 1.0)
    assert 0 <= loss.item() < 10


def test_their_gradients_carry_lambda_and_w_of_the_loss() -> None:
    dao = DAO(NAMES, DAOSettings(imbalance="learn", alpha=0.3))
    taken: list[Tensor | None] = []
    dao.optimizer.register_step_pre_hook(lambda *_: taken.append(dao.alpha.grad))
    dao.imbalance(ROWS, LABELS, 3)
    dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)}, {"classes": 1.0, "polarity": 4.0})
    share = torch.tensor([0.7, 0.2, 0.1])
    equation_16 = -0.8 * 0.5 * (share**-0.5 * share.log()).sum()  # λ = 4/5, w = 1/2
    assert taken[0] is not None
    torch.testing.assert_close(taken[0], equation_16)


def test_heads_are_averaged_by_their_rows() -> None:
    settings = DAOSettings(imbalance="learn", alpha=0.3)
    whole, parts = DAO(NAMES, settings), DAO(NAMES, settings)
    taken: list[Tensor] = []
    for dao, heads in ((whole, (ROWS,)), (parts, (ROWS, ROWS))):
        dao.optimizer.register_step_pre_hook(lambda *_, dao=dao: taken.append(dao.beta.grad))
        for rows in heads:
            dao.imbalance(rows, LABELS, 3)
        dao.weights({"classes": scalar(1.0), "polarity": scalar(1.0)})
    torch.testing.assert_close(*taken)


def test_a_broken_batch_leaves_alpha_and_beta_finite() -> None:
    dao = DAO(NAMES, DAOSettings(imbalance="learn"))
    loss = dao.imbalance(ROWS * math.nan, LABELS, 3)
    dao.weights({"classes": loss, "polarity": scalar(1.0)})
    assert math.isfinite(dao.log_values()["beta"])
    assert dao.imbalance(ROWS, LABELS, 3).isfinite()


# State, constants, settings


@pytest.mark.parametrize("mode", ["fixed", "learn"])
def test_state_restored_from_bytes_continues_identically(mode: str) -> None:
    settings = DAOSettings.model_validate({"imbalance": mode})
    first, second = DAO(NAMES, settings, seed=1), DAO(NAMES, settings, seed=2)
    for _ in range(3):
        first.imbalance(ROWS, LABELS, 3)
        steps(first, 2)
    second.restore(load(save(first.state())))
    for dao in (first, second):
        dao.imbalance(ROWS, LABELS, 3)
    assert steps(first, 5, start=7) == steps(second, 5, start=7)
    assert first.log_values() == second.log_values()


def test_state_is_a_copy_that_later_steps_do_not_change() -> None:
    dao = DAO(NAMES)
    steps(dao, 3)
    state = dao.state_dict()
    kept = {key: value.clone() for key, value in state.items()}
    steps(dao, 3)
    assert all(torch.equal(kept[key], state[key]) for key in state)


def test_a_fresh_state_can_be_restored_too() -> None:
    first, second = DAO(NAMES, seed=1), DAO(NAMES, seed=2)
    second.restore(first.state())
    assert steps(first, 3) == steps(second, 3)


def test_five_lines_train_somebody_elses_toy() -> None:
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


def test_constants_stand_in_for_dao_without_a_branch() -> None:
    x = torch.ones(2, requires_grad=True)
    totals = {}
    for kind in ("dao", "constant"):
        weighting = build_weighting(kind, NAMES, DAOSettings(), {"classes": 1.0, "polarity": 0.1, "other": 3.0})
        totals[kind] = weighting.combine(two_losses(x), at=[x], rows={"classes": 2}).item()
        weighting.observe("classes", 1.0)
        weighting.restore(weighting.state())
        assert all(isinstance(value, float) for value in weighting.log_values().values())
    assert totals["constant"] == pytest.approx(7.0 + 0.1 * 2.0)


@pytest.mark.parametrize(
    "wrong",
    [{"ema": 1.0}, {"beta": 1.5}, {"alpha": -1.0}, {"relative_bounds": (2.0, 0.1)}, {"objective": "none"}, {"lr": 0.0}],
)
def test_settings_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        DAOSettings.model_validate(wrong)
