"""The distillation loss of each row."""

import pytest
import torch
from torch.nn import functional as F

from router.distillation import distillation_losses


def test_loss_is_zero_exactly_where_the_student_agrees() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0], [0.0, 1.0, 3.0]])
    same = distillation_losses(logits, logits.softmax(-1), temperature=2.0)
    assert same.abs().max() < 1e-6
    assert (distillation_losses(logits, logits.softmax(-1).flip(-1), temperature=2.0) > 0.1).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_loss_is_the_divergence_of_both_distributions_at_the_temperature(temperature: float) -> None:
    student, teacher = torch.randn(5, 4, generator=torch.Generator().manual_seed(0)), torch.rand(5, 4) + 0.1
    probabilities = teacher / teacher.sum(-1, keepdim=True)
    cooled = (probabilities.log() / temperature).softmax(-1)
    expected = F.kl_div((student / temperature).log_softmax(-1), cooled, reduction="none").sum(-1) * temperature**2
    torch.testing.assert_close(distillation_losses(student, probabilities, temperature), expected)


def test_labels_of_other_tasks_take_no_part_and_gradients_stay_finite() -> None:
    logits = torch.tensor([[1.0, -1.0, torch.finfo(torch.float32).min]], requires_grad=True)
    losses = distillation_losses(logits, torch.tensor([[0.7, 0.3, 0.0]]), temperature=2.0)
    (gradient,) = torch.autograd.grad(losses.sum(), logits)
    assert torch.isfinite(losses).all()
    assert torch.isfinite(gradient).all()
    assert gradient[0, 2] == 0
    two = distillation_losses(logits[:, :2], torch.tensor([[0.7, 0.3]]), temperature=2.0)
    torch.testing.assert_close(losses, two)


def test_certain_teacher_gives_the_cross_entropy_at_temperature_one() -> None:
    logits, label = torch.randn(3, 3, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 2, 1])
    losses = distillation_losses(logits, F.one_hot(label, 3).float(), temperature=1.0)
    torch.testing.assert_close(losses, F.cross_entropy(logits, label, reduction="none"))
