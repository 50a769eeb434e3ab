"""Tasks with ordered labels: a cumulative-link head, its loss, and the quadratic-weighted kappa."""

import numpy as np
import pytest
import torch
from sklearn.metrics import cohen_kappa_score
from torch import nn

from moe.kinds.losses import ROW_LOSSES
from moe.kinds.registry import task_kind
from moe.model.heads import OrdinalLinear

LABELS = ("low", "middle", "high", "top")
KIND = task_kind("ordinal")


def _loss(head: OrdinalLinear, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    mask = torch.ones(len(states), 4).bool()
    return ROW_LOSSES["ordinal"](head(states), labels, mask, 0.0, 0.0).mean()


def _head(classes: int = 4) -> OrdinalLinear:
    torch.manual_seed(0)
    head = OrdinalLinear(5, classes)
    with torch.no_grad():
        head.bias.normal_()
    return head


@pytest.mark.parametrize("classes", [3, 4, 7])
def test_head_gives_differences_of_cumulative_probabilities(classes: int) -> None:
    head, states = _head(classes), torch.randn(6, 5)
    score = states @ head.weight[0] + head.bias[0]
    thresholds = torch.cat([torch.zeros(1), nn.functional.softplus(head.bias[2:]).cumsum(0)])
    cumulative = torch.sigmoid(thresholds - score[:, None])
    edges = torch.cat([torch.zeros(6, 1), cumulative, torch.ones(6, 1)], 1)
    torch.testing.assert_close(head(states).exp(), edges.diff(dim=1), atol=1e-6, rtol=1e-5)


def test_logarithms_are_finite_far_from_all_thresholds() -> None:
    head = _head()
    states = torch.full((2, 5), 1e4) * torch.tensor([[1.0], [-1.0]]) * head.weight[0].sign().detach()
    logits = head(states)
    logits.sum().backward()
    assert bool(logits.isfinite().all())
    assert bool(head.weight.grad.isfinite().all())


def test_only_one_score_and_the_thresholds_are_learned() -> None:
    head = OrdinalLinear(5, 4)
    optimizer = torch.optim.AdamW(head.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        _loss(head, torch.randn(8, 5), torch.arange(8) % 4).backward()
        optimizer.step()
    assert bool((head.weight[1:] == 0).all())
    assert head.bias[1].item() == 0.0
    assert bool((head.bias[[0, 2, 3]] != 0).all())


def test_head_learns_an_order_from_a_few_rows_of_each_label() -> None:
    torch.manual_seed(1)
    head, states = OrdinalLinear(5, 4), torch.randn(200, 5)
    score = states[:, 0]
    labels = (score[:, None] > torch.tensor([-1.0, 0.0, 1.0])).sum(1)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        _loss(head, states, labels).backward()
        optimizer.step()
    assert float((head(states).argmax(1) == labels).float().mean()) > 0.9


def test_kappa_is_that_of_scikit_learn_and_counts_distance() -> None:
    true, near, far = (["middle", "high", "top", first] * 5 for first in ("low", "middle", "top"))
    metrics = [KIND.metrics(true, predicted, LABELS) for predicted in (true, near, far)]
    kappas = [report.quadratic_kappa for report in metrics]
    codes = [[LABELS.index(name) for name in names] for names in (true, near)]
    assert kappas[0] == 1.0 > kappas[1] > kappas[2]
    assert kappas[1] == pytest.approx(cohen_kappa_score(*codes, weights="quadratic"))
    assert metrics[1].accuracy == metrics[2].accuracy
    assert task_kind().metrics(true, near, LABELS).quadratic_kappa is None


def test_kappa_is_undefined_for_one_label_and_for_labels_of_another_task() -> None:
    assert KIND.metrics(["low"] * 3, ["low"] * 3, LABELS).quadratic_kappa is None
    assert KIND.metrics(["low", "top"], ["other", "top"], LABELS).quadratic_kappa is None


def test_task_of_two_labels_is_refused() -> None:
    assert "at least 3 labels" in str(KIND.check_labels(("low", "high")))
    assert KIND.check_labels(LABELS) is None
    assert np.array_equal(KIND.strata(np.array([2, 0]), 4, np.zeros(2)), [2, 0])


@pytest.mark.parametrize("classes", [3, 5, 9])
def test_every_label_is_the_most_probable_one_of_some_score_before_training(classes: int) -> None:
    head = OrdinalLinear(1, classes)
    scores = torch.linspace(-30, 30, 601)[:, None] / head.weight[0, 0].detach()
    assert head(scores).argmax(1).unique().tolist() == list(range(classes))
