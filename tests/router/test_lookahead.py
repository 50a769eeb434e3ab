"""Claims about `router.lookahead`: the virtual step is Adam-long and leaves no trace, and says whose gradient helps."""

import pytest
import torch
from torch import Tensor, nn

from router.dao import DAO, DAOSettings
from router.lookahead import LookAhead

NAMES = ("helps", "harms")


def bowl(x: Tensor, centre: tuple[float, float]) -> Tensor:
    return ((x - torch.tensor(centre)) ** 2).sum()


def test_help_is_the_inner_product_with_the_held_out_direction_after_the_step() -> None:
    x = nn.Parameter(torch.zeros(2))
    losses = {"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (0.0, 2.0))}
    seen = []

    def held_out() -> Tensor:
        seen.append(x.detach().clone())
        return bowl(x, (3.0, 4.0))

    found = LookAhead([x], held_out).helps(losses, {"helps": torch.tensor(1.0), "harms": torch.tensor(0.5)}, rate=0.1)
    down = torch.tensor([2.0, 2.0])  # −(1·(−2, 0) + 0.5·(0, −4))
    torch.testing.assert_close(seen[0], 0.1 * 2**0.5 * down / down.norm())  # as long as Adam's step of that rate
    ahead = 2 * (seen[0] - torch.tensor([3.0, 4.0]))
    assert found["helps"] == pytest.approx(float(ahead @ torch.tensor([-2.0, 0.0]) / ahead.norm()))
    assert found["harms"] == pytest.approx(float(ahead @ torch.tensor([0.0, -4.0]) / ahead.norm()))


def test_a_virtual_step_leaves_weights_and_gradients_as_if_it_had_not_been() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Linear(4, 2), torch.randn(8, 4)

    def losses() -> dict[str, Tensor]:
        out = net(inputs)
        return {"helps": out[:, 0].square().mean(), "harms": (out[:, 1] - 1).square().mean()}

    sum(losses().values()).backward()
    plain = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    before = [p.detach().clone() for p in net.parameters()]
    now = losses()
    LookAhead(list(net.parameters()), lambda: losses()["helps"]).helps(now, dict.fromkeys(NAMES, torch.ones(())), 0.5)
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    sum(now.values()).backward()
    for p, grad in zip(net.parameters(), plain, strict=True):
        torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize("loss", [lambda x: x.sum() * 0.0, lambda x: x.sum() * float("nan"), lambda x: torch.ones(())])
def test_a_held_out_loss_that_is_flat_or_not_finite_says_nothing(loss) -> None:
    x = nn.Parameter(torch.ones(2))
    look = LookAhead([x], lambda: loss(x))
    assert look.helps({"helps": x.sum()}, {"helps": torch.ones(())}, 0.1) == {}


def test_nothing_is_run_where_nothing_shared_learns() -> None:
    def never() -> Tensor:
        raise AssertionError

    look = LookAhead([torch.ones(2)], never)
    assert look.helps({"helps": torch.ones((), requires_grad=True)}, {"helps": torch.ones(())}, 0.1) == {}


def train(objective: str, steps: int = 120) -> dict[str, float]:
    """Two losses pull apart; the held-out loss wants what `helps` wants, `harms` is the one that is small anyway."""
    x = nn.Parameter(torch.zeros(2))
    dao = DAO(NAMES, DAOSettings(objective=objective, lr=0.01, every=1, ema=0.0))
    optimizer = torch.optim.Adam([x], lr=1e-3)
    for _ in range(steps):
        losses = {"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (-0.1, 0.0))}
        total = dao.combine(losses, at=[x], look=LookAhead([x], lambda: bowl(x, (1.0, 0.0))))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return dao.log_values()


def test_validation_gives_weight_to_the_loss_that_helps_where_the_sum_gives_it_to_the_small_one() -> None:
    assert train("validation")["w_helps"] > 0.7
    assert train("sum")["w_helps"] < 0.5


def test_without_a_held_out_batch_the_validation_objective_keeps_equal_weights() -> None:
    x = nn.Parameter(torch.zeros(2))
    dao = DAO(NAMES, DAOSettings(objective="validation"))
    for _ in range(30):
        dao.combine({"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (5.0, 0.0))}, at=[x])
    assert dao.log_values()["w_helps"] == pytest.approx(0.5)


def test_a_refresh_every_k_steps_measures_and_looks_ahead_only_then() -> None:
    x = nn.Parameter(torch.zeros(2))
    looked = []

    def held_out() -> Tensor:
        looked.append(dao.step)
        return bowl(x, (1.0, 0.0))

    dao = DAO(NAMES, DAOSettings(objective="validation", every=4))
    for _ in range(9):
        dao.combine({"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (0.0, 1.0))}, at=[x], look=LookAhead([x], held_out))
    assert looked == [0, 4, 8]
    assert dao.seen.tolist() == [3, 3]


def test_five_lines_train_somebody_elses_loop_with_a_held_out_batch() -> None:
    torch.manual_seed(0)
    body, classes, score = nn.Linear(6, 8), nn.Linear(8, 3), nn.Linear(8, 1)
    parameters = [*body.parameters(), *classes.parameters(), *score.parameters()]
    inputs = torch.randn(128, 6)
    labels, scores = inputs[:, :3].argmax(-1), inputs[:, 3].tanh()
    optimizer = torch.optim.Adam(parameters, lr=0.02)

    def model(rows: slice) -> tuple[Tensor, dict[str, Tensor]]:
        h = body(inputs[rows]).tanh()
        cross = nn.functional.cross_entropy(classes(h), labels[rows])
        return h, {"classes": cross, "polarity": nn.functional.mse_loss(score(h)[:, 0], scores[rows])}

    dao = DAO(("classes", "polarity"), DAOSettings(objective="validation"))
    look = LookAhead(list(body.parameters()), lambda: sum(model(slice(64, 128))[1].values()))
    first = None
    for _ in range(150):
        h, losses = model(slice(0, 64))
        first = first or {name: loss.item() for name, loss in losses.items()}
        total = dao.combine(losses, at=h, look=look)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert all(losses[name].item() < 0.3 * first[name] for name in losses)
