"""Tests of losses for imbalanced classes: eq. 12 to 14 and the gradients of eq. 16 and 17 against manual results."""

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from router.dao import class_statistics, imbalance_loss, unnormalized_imbalance_loss
from router.losses import effective_number_weights, row_losses

PER_ROW = torch.tensor([1.0, 2.0, 3.0, 6.0])
LABELS = torch.tensor([0, 0, 0, 2])  # class 1 is absent
FREQUENCY, MEAN = torch.tensor([0.7, 0.2, 0.1]), torch.tensor([0.5, 1.0, 2.0])


def gradients(alpha: float, beta: float) -> tuple[Tensor, Tensor]:
    a, b = torch.tensor(alpha, requires_grad=True), torch.tensor(beta, requires_grad=True)
    d_alpha, d_beta = torch.autograd.grad(unnormalized_imbalance_loss(FREQUENCY, MEAN, a, b), (a, b))
    return d_alpha, d_beta


def test_class_statistics_cover_only_classes_in_the_batch() -> None:
    frequency, mean = class_statistics(PER_ROW, LABELS, 3)
    assert frequency.tolist() == [0.75, 0.25]
    assert mean.tolist() == [2.0, 6.0]


def test_imbalance_loss_equals_normalized_equation_14() -> None:
    alpha, beta = 0.3, 0.5
    terms = [p**-beta * (p * mean - alpha * math.log(p)) for p, mean in ((0.75, 2.0), (0.25, 6.0))]
    expected = sum(terms) / (0.75 ** (1 - beta) + 0.25 ** (1 - beta))
    assert imbalance_loss(PER_ROW, LABELS, alpha, beta, 3).item() == pytest.approx(expected)


def test_beta_0_weights_rows_equally_and_beta_1_weights_classes_equally() -> None:
    assert imbalance_loss(PER_ROW, LABELS, 0.0, 0.0, 3).item() == pytest.approx(PER_ROW.mean().item())
    assert imbalance_loss(PER_ROW, LABELS, 0.0, 1.0, 3).item() == pytest.approx((2.0 + 6.0) / 2)


@pytest.mark.parametrize("classes", [3, 50])
def test_absent_classes_do_not_change_the_loss(classes: int) -> None:
    loss = imbalance_loss(PER_ROW, LABELS, 0.1, 0.5, classes)
    assert loss.isfinite()
    assert loss == imbalance_loss(PER_ROW, LABELS.clamp(max=1), 0.1, 0.5, 2)


@pytest.mark.parametrize("classes", [2, 5, 20])
def test_scale_does_not_depend_on_number_of_balanced_classes(classes: int) -> None:
    labels = torch.arange(classes)
    assert imbalance_loss(torch.full((classes,), 1.5), labels, 0.0, 0.5, classes).item() == pytest.approx(1.5)


def test_higher_beta_increases_the_weight_of_rows_of_rare_classes() -> None:
    def gradient_ratio(beta: float) -> float:
        rows = PER_ROW.clone().requires_grad_()
        (grad,) = torch.autograd.grad(imbalance_loss(rows, LABELS, 0.0, beta, 3), rows)
        return (grad[3] / grad[0]).item()

    assert gradient_ratio(0.0) == pytest.approx(1.0)
    assert gradient_ratio(0.5) == pytest.approx(3**0.5)
    assert gradient_ratio(1.0) == pytest.approx(3.0)


def test_alpha_has_no_effect_on_the_model_gradient() -> None:
    rows = PER_ROW.clone().requires_grad_()
    grads = [torch.autograd.grad(imbalance_loss(rows, LABELS, a, 0.5, 3), rows)[0] for a in (0.0, 5.0)]
    assert torch.equal(*grads)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.4, 0.0), (1.0, 0.9)])
def test_alpha_gradient_equals_equation_16(alpha: float, beta: float) -> None:
    printed = -(FREQUENCY**-beta * FREQUENCY.log()).sum()
    torch.testing.assert_close(gradients(alpha, beta)[0], printed)


@pytest.mark.parametrize(("alpha", "beta"), [(0.0, 0.5), (0.4, 0.0), (1.0, 0.9)])
def test_beta_gradient_is_the_negative_of_equation_17_as_printed(alpha: float, beta: float) -> None:
    printed = (FREQUENCY.log() / FREQUENCY**beta * (FREQUENCY * MEAN - alpha * FREQUENCY.log())).sum()
    torch.testing.assert_close(gradients(alpha, beta)[1], -printed)


def descend(printed_sign: bool) -> tuple[list[float], float, float]:
    """Take 400 Adam steps on unbounded α and β with constant class losses, optionally with eq. 17's printed sign."""
    alpha, beta = (torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.1, 0.5))
    adam = torch.optim.Adam([alpha, beta], lr=0.02)
    values = []
    for _ in range(400):
        loss = unnormalized_imbalance_loss(FREQUENCY.double(), MEAN.double(), alpha, beta)
        alpha.grad, beta.grad = torch.autograd.grad(loss, (alpha, beta))
        if printed_sign:
            beta.grad = -beta.grad
        adam.step()
        values.append(loss.item())
    return values, alpha.item(), beta.item()


def test_unbounded_loss_diverges() -> None:
    values, alpha, beta = descend(printed_sign=False)
    assert all(after < before for before, after in pairwise(values))
    assert values[-1] < -1e11
    assert alpha < -10
    assert beta > 10


def test_unbounded_printed_sign_of_equation_17_favors_frequent_classes() -> None:
    values, alpha, beta = descend(printed_sign=True)
    assert values[-1] < 0  # below 0 although the loss of every class is positive
    assert alpha < 0
    assert beta < 0  # the rarest class has the lowest weight


# Effective numbers, focal loss, smoothing


IMBALANCED = torch.tensor([900, 90, 10])


@pytest.mark.parametrize("beta", [0.9, 0.99, 0.999, 0.9999, 0.99999])
def test_effective_numbers_favor_the_rare_class(beta: float) -> None:
    weights = effective_number_weights(IMBALANCED, beta)
    expected = (1 - beta) / (1 - beta ** IMBALANCED.double())
    torch.testing.assert_close(weights, (expected * 3 / expected.sum()).float())
    assert weights[2] > 1.2 * weights[0]


def test_effective_numbers_are_equal_at_beta_0_and_for_large_counts() -> None:
    torch.testing.assert_close(effective_number_weights(IMBALANCED, 0.0), torch.ones(3))
    finnf = torch.tensor([775_905, 635_353, 215_034])
    torch.testing.assert_close(effective_number_weights(finnf, 0.99), torch.ones(3))
    assert effective_number_weights(finnf, 0.999999).max() > 1.5


def test_effective_numbers_of_empty_class_is_0_and_mean_of_others_is_1() -> None:
    weights = effective_number_weights(torch.tensor([50, 0, 5]), 0.999)
    assert weights[1] == 0.0
    assert weights.sum() == pytest.approx(2.0)


MASK = torch.tensor([[True, True, False], [True, True, True]])
LOGITS = torch.tensor([[2.0, 1.0, torch.finfo(torch.float32).min], [0.3, -1.0, 0.5]])
TRUE = torch.tensor([0, 2])


def test_row_losses_default_to_cross_entropy() -> None:
    expected = torch.nn.functional.cross_entropy(LOGITS, TRUE, reduction="none")
    torch.testing.assert_close(row_losses(LOGITS, TRUE, MASK), expected)


def test_smoothing_uses_only_labels_of_the_task() -> None:
    losses = row_losses(LOGITS, TRUE, MASK, smoothing=0.1)
    for row, task_labels in enumerate(([0, 1], [0, 1, 2])):
        label = task_labels.index(int(TRUE[row]))
        expected = torch.nn.functional.cross_entropy(
            LOGITS[row, task_labels][None], torch.tensor([label]), label_smoothing=0.1
        )
        torch.testing.assert_close(losses[row], expected)


def test_focal_factor_uses_true_label_probability_also_with_smoothing() -> None:
    p = LOGITS.softmax(-1).gather(1, TRUE[:, None])[:, 0]
    for smoothing in (0.0, 0.1):
        plain = row_losses(LOGITS, TRUE, MASK, smoothing=smoothing)
        torch.testing.assert_close(row_losses(LOGITS, TRUE, MASK, focal=2.0, smoothing=smoothing), plain * (1 - p) ** 2)


def test_focal_loss_of_a_certain_row_has_a_finite_gradient() -> None:
    logits = torch.tensor([[80.0, 0.0]], requires_grad=True)
    row_losses(logits, torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool), focal=0.5).sum().backward()
    assert logits.grad.isfinite().all()
