"""Claims about `router.class_imbalance`: eq. 12 to 14 by hand, and the gradients of eq. 16 and 17."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from router.class_imbalance import (
    class_statistics,
    effective_number_weights,
    imbalance_loss,
    unnormalized_imbalance_loss,
    row_losses,
)

PER_ROW = torch.tensor([1.0, 2.0, 3.0, 6.0])
LABELS = torch.tensor([0, 0, 0, 2])  # class 1 is absent
SHARE, MEAN = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 1.0, 2.0])


def gradients(alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(alpha, requires_grad=True), torch.tensor(beta, requires_grad=True)
    d_alpha, d_beta = torch.autograd.grad(unnormalized_imbalance_loss(SHARE, MEAN, a, b), (a, b))
    return d_alpha, d_beta


def test_shares_and_means_are_of_the_classes_present() -> None:
    share, mean = class_statistics(PER_ROW, LABELS, 3)
    assert share.tolist() == [0.75, 0.25]
    assert mean.tolist() == [2.0, 6.0]


def test_loss_equals_equation_14_by_hand_over_its_scale() -> None:
    alpha, beta = 0.3, 0.5
    terms = [p**-beta * (p * mean - alpha * math.log(p)) for p, mean in ((0.75, 2.0), (0.25, 6.0))]
    by_hand = sum(terms) / (0.75 ** (1 - beta) + 0.25 ** (1 - beta))
    assert imbalance_loss(PER_ROW, LABELS, alpha, beta, 3).item() == pytest.approx(by_hand)


def test_beta_zero_is_plain_cross_entropy_and_beta_one_weighs_classes_alike() -> None:
    assert imbalance_loss(PER_ROW, LABELS, 0.0, 0.0, 3).item() == pytest.approx(PER_ROW.mean().item())
    assert imbalance_loss(PER_ROW, LABELS, 0.0, 1.0, 3).item() == pytest.approx((2.0 + 6.0) / 2)


@pytest.mark.parametrize("classes", [3, 50])
def test_absent_classes_change_nothing(classes: int) -> None:
    whole = imbalance_loss(PER_ROW, LABELS, 0.1, 0.5, classes)
    assert whole.isfinite()
    assert whole == imbalance_loss(PER_ROW, LABELS.clamp(max=1), 0.1, 0.5, 2)


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_the_number_of_balanced_classes_leaves_the_scale_alone(classes: int) -> None:
    labels = torch.arange(classes)
    assert imbalance_loss(torch.full((classes,), 1.5), labels, 0.0, 0.5, classes).item() == pytest.approx(1.5)


def test_a_rare_class_weighs_more_a_row_when_beta_rises() -> None:
    def pull(beta: float) -> float:
        rows = PER_ROW.clone().requires_grad_()
        (grad,) = torch.autograd.grad(imbalance_loss(rows, LABELS, 0.0, beta, 3), rows)
        return (grad[3] / grad[0]).item()

    assert pull(0.0) == pytest.approx(1.0)
    assert pull(0.5) == pytest.approx(3**0.5)
    assert pull(1.0) == pytest.approx(3.0)


def test_alpha_moves_no_gradient_of_the_model() -> None:
    rows = PER_ROW.clone().requires_grad_()
    grads = [torch.autograd.grad(imbalance_loss(rows, LABELS, a, 0.5, 3), rows)[0] for a in (0.0, 5.0)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.4, 0.0), (1.0, 0.9)])
def test_alphas_gradient_equals_equation_16(alpha: float, beta: float) -> None:
    printed = -(SHARE**-beta * SHARE.log()).sum()
    torch.testing.assert_close(gradients(alpha, beta)[0], printed)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.4, 0.0), (1.0, 0.9)])
def test_betas_true_gradient_is_the_negative_of_equation_17_as_printed(alpha: float, beta: float) -> None:
    printed = (SHARE.log() / SHARE**beta * (SHARE * MEAN - alpha * SHARE.log())).sum()
    torch.testing.assert_close(gradients(alpha, beta)[1], -printed)


def descend(turned: bool) -> tuple[list[float], float, float]:
    """400 Adam steps on unbounded α and β with the model's losses held; `turned` takes eq. 17's printed sign."""
    alpha, beta = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.1, 0.5))
    adam = torch.optim.Adam([alpha, beta], lr=0.02)
    values = []
    for _ in range(400):
        loss = unnormalized_imbalance_loss(SHARE.double(), MEAN.double(), alpha, beta)
        alpha.grad, beta.grad = torch.autograd.grad(loss, (alpha, beta))
        if turned:
            beta.grad = -beta.grad
        adam.step()
        values.append(loss.item())
    return values, alpha.item(), beta.item()


def test_unbounded_the_loss_has_no_minimum_and_runs_away() -> None:
    values, alpha, beta = descend(turned=False)
    assert all(after < before for before, after in pairwise(values))
    assert values[-1] < -1e11
    assert alpha < -10
    assert beta > 10


def test_unbounded_the_printed_sign_of_equation_17_turns_the_balancing_upside_down() -> None:
    values, alpha, beta = descend(turned=True)
    assert values[-1] < 0  # a loss below 0 though every class's own loss is above it
    assert alpha < 0
    assert beta < 0  # the rarest class weighs least


# Effective numbers, focal loss, smoothing


IMBALANCED = torch.tensor([900, 90, 10])


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_effective_numbers_favour_the_rare_class_of_an_imbalanced_set(beta: float) -> None:
    weights = effective_number_weights(IMBALANCED, beta)
    by_hand = (1 - beta) / (1 - beta ** IMBALANCED.double())
    torch.testing.assert_close(weights, (by_hand * 3 / by_hand.sum()).float())
    assert weights[2] > 1.2 * weights[0]


def test_effective_numbers_at_beta_zero_and_on_finnfs_counts_do_nothing() -> None:
    torch.testing.assert_close(effective_number_weights(IMBALANCED, 0.0), torch.ones(3))
    finnf = torch.tensor([775_905, 635_353, 215_034])
    torch.testing.assert_close(effective_number_weights(finnf, 0.99), torch.ones(3))
    assert effective_number_weights(finnf, 0.999999).max() > 1.5


def test_a_class_without_rows_weighs_nothing_and_the_others_one_on_average() -> None:
    weights = effective_number_weights(torch.tensor([50, 0, 5]), 0.999)
    assert weights[1] == 0.0
    assert weights.sum() == pytest.approx(2.0)


MASK = torch.tensor([[True, True, False], [True, True, True]])
LOGITS = torch.tensor([[2.0, 1.0, torch.finfo(torch.float32).min], [0.3, -1.0, 0.5]])
TRUE = torch.tensor([0, 2])


def test_plain_row_losses_are_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS, TRUE, reduction="none")
    torch.testing.assert_close(row_losses(LOGITS, TRUE, MASK), expected)


def test_smoothing_spreads_over_the_tasks_own_labels_only() -> None:
    found = row_losses(LOGITS, TRUE, MASK, smoothing=0.1)
    for row, own in enumerate(([0, 1], [0, 1, 2])):
        label = own.index(int(TRUE[row]))
        expected = torch.nn.functional.cross_entropy(LOGITS[row, own][None], torch.tensor([label]), label_smoothing=0.1)
        torch.testing.assert_close(found[row], expected)


def test_the_focal_factor_is_of_the_true_labels_probability_also_under_smoothing() -> None:
    p = LOGITS.softmax(-1).gather(1, TRUE[:, None])[:, 0]
    for smoothing in (0.0, 0.1):
        plain = row_losses(LOGITS, TRUE, MASK, smoothing=smoothing)
        torch.testing.assert_close(row_losses(LOGITS, TRUE, MASK, 2.0, smoothing), plain * (1 - p) ** 2)


def test_focal_loss_of_a_row_that_is_sure_has_a_finite_gradient() -> None:
    logits = torch.tensor([[80.0, 0.0]], requires_grad=True)
    row_losses(logits, torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool), focal=0.5).sum().backward()
    assert logits.grad.isfinite().all()
