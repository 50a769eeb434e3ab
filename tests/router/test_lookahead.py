"""Tests of `router.lookahead`: length and side effects of the virtual step, and alignments of losses."""

import pytest
import torch
from torch import Tensor, nn

from router.dao import DAO
from router.lookahead import LookAhead
from router.registry import DAOSettings

NAMES = ("helps", "harms")


def bowl(x: Tensor, centre: tuple[float, float]) -> Tensor:
    return ((x - torch.tensor(centre)) ** 2).sum()


def test_alignment_is_the_inner_product_with_the_held_out_gradient() -> None:
    x = nn.Parameter(torch.zeros(2))
    losses = {"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (0.0, 2.0))}
    positions = []

    def held_out_loss() -> Tensor:
        positions.append(x.detach().clone())
        return bowl(x, (3.0, 4.0))

    alignments = LookAhead([x], held_out_loss).alignments(
        losses, {"helps": torch.tensor(1.0), "harms": torch.tensor(0.5)}, lr=0.1
    )
    down = torch.tensor([2.0, 2.0])  # −(1·(−2, 0) + 0.5·(0, −4))
    torch.testing.assert_close(positions[0], 0.1 * 2**0.5 * down / down.norm())  # as long as a step of Adam
    held_out = 2 * (positions[0] - torch.tensor([3.0, 4.0]))
    assert alignments["helps"] == pytest.approx(float(held_out @ torch.tensor([-2.0, 0.0]) / held_out.norm()))
    assert alignments["harms"] == pytest.approx(float(held_out @ torch.tensor([0.0, -4.0]) / held_out.norm()))


def test_virtual_step_changes_neither_parameters_nor_gradients() -> None:
    torch.manual_seed(0)
    net, inputs = nn.Linear(4, 2), torch.randn(8, 4)

    def losses() -> dict[str, Tensor]:
        out = net(inputs)
        return {"helps": out[:, 0].square().mean(), "harms": (out[:, 1] - 1).square().mean()}

    sum(losses().values()).backward()
    expected = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    before = [p.detach().clone() for p in net.parameters()]
    current = losses()
    LookAhead(list(net.parameters()), lambda: losses()["helps"]).alignments(
        current, dict.fromkeys(NAMES, torch.ones(())), 0.5
    )
    assert all(torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True))
    sum(current.values()).backward()
    for p, grad in zip(net.parameters(), expected, strict=True):
        torch.testing.assert_close(p.grad, grad)


@pytest.mark.parametrize("loss", [lambda x: x.sum() * 0.0, lambda x: x.sum() * float("nan"), lambda x: torch.ones(())])
def test_held_out_loss_without_finite_gradient_gives_no_alignment(loss) -> None:
    x = nn.Parameter(torch.ones(2))
    lookahead = LookAhead([x], lambda: loss(x))
    assert lookahead.alignments({"helps": x.sum()}, {"helps": torch.ones(())}, 0.1) == {}


def test_held_out_loss_is_not_computed_without_trainable_parameters() -> None:
    def never() -> Tensor:
        raise AssertionError

    lookahead = LookAhead([torch.ones(2)], never)
    assert lookahead.alignments({"helps": torch.ones((), requires_grad=True)}, {"helps": torch.ones(())}, 0.1) == {}


def train(objective: str, steps: int = 120) -> dict[str, float]:
    """Train with two opposed losses; the held-out loss agrees with `helps`, but `harms` is smaller."""
    x = nn.Parameter(torch.zeros(2))
    dao = DAO(NAMES, DAOSettings(objective=objective, lr=0.01, every=1, ema=0.0))
    optimizer = torch.optim.Adam([x], lr=1e-3)
    for _ in range(steps):
        losses = {"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (-0.1, 0.0))}
        total = dao.combine(losses, at=[x], lookahead=LookAhead([x], lambda: bowl(x, (1.0, 0.0))))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    return dao.log_values()


def test_validation_objective_favors_the_aligned_loss_and_sum_the_smaller() -> None:
    assert train("validation")["w_helps"] > 0.7
    assert train("sum")["w_helps"] < 0.5


def test_validation_objective_without_lookahead_gives_equal_weights() -> None:
    x = nn.Parameter(torch.zeros(2))
    dao = DAO(NAMES, DAOSettings(objective="validation"))
    for _ in range(30):
        dao.combine({"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (5.0, 0.0))}, at=[x])
    assert dao.log_values()["w_helps"] == pytest.approx(0.5)


def test_dao_every_k_measures_and_looks_ahead_every_k_steps() -> None:
    x = nn.Parameter(torch.zeros(2))
    steps = []

    def held_out_loss() -> Tensor:
        steps.append(dao.step)
        return bowl(x, (1.0, 0.0))

    dao = DAO(NAMES, DAOSettings(objective="validation", every=4))
    for _ in range(9):
        dao.combine(
            {"helps": bowl(x, (1.0, 0.0)), "harms": bowl(x, (0.0, 1.0))},
            at=[x],
            lookahead=LookAhead([x], held_out_loss),
        )
    assert steps == [0, 4, 8]
    assert dao.norm_counts.tolist() == [3, 3]


def test_dao_with_lookahead_trains_a_small_model_in_any_loop() -> None:
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
    lookahead = LookAhead(list(body.parameters()), lambda: sum(model(slice(64, 128))[1].values()))
    initial = None
    for _ in range(150):
        h, losses = model(slice(0, 64))
        initial = initial or {name: loss.item() for name, loss in losses.items()}
        total = dao.combine(losses, at=h, lookahead=lookahead)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert all(losses[name].item() < 0.3 * initial[name] for name in losses)
