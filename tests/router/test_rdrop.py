"""Tests of R-Drop: the divergence of two passes, and rows that are read twice."""

import torch
from torch.nn import functional as F

from router.rdrop import REPEATED, repeat_rows, symmetric_kl


def test_rows_are_repeated_in_order_and_marked() -> None:
    batch = {"label": torch.tensor([3, 4, 5]), "input_ids": torch.arange(6).view(3, 2)}
    repeated = repeat_rows(batch)
    assert repeated["label"].tolist() == [3, 4, 5, 3, 4, 5]
    assert torch.equal(repeated["input_ids"][3:], batch["input_ids"])
    assert repeated[REPEATED].tolist() == [0, 0, 0, 1, 1, 1]


def test_divergence_is_the_mean_of_torch_s_kl_in_both_directions_over_the_labels_of_the_task() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 4, requires_grad=True)  # (2B, K)
    mask = torch.tensor([[True, True, True, False], [True] * 4, [False, True, True, False]]).repeat(2, 1)  # (2B, K)
    masked = logits.masked_fill(~mask, torch.finfo(torch.float32).min)
    divergence = symmetric_kl(masked, mask, torch.tensor([0, 0, 0, 1, 1, 1]))  # (B,)
    for row in range(3):
        p, q = (masked[i][mask[i]].log_softmax(-1) for i in (row, row + 3))
        expected = F.kl_div(p, q, log_target=True, reduction="sum") + F.kl_div(q, p, log_target=True, reduction="sum")
        torch.testing.assert_close(divergence[row], expected / 2)
    divergence.sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[~mask].any()


def test_rows_of_several_micro_batches_are_paired_in_order() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(4, 3), torch.randn(4, 3)  # (B, K) of each pass
    mask = torch.ones(8, 3, dtype=torch.bool)
    together = symmetric_kl(torch.cat([first, second]), mask, torch.tensor([0] * 4 + [1] * 4))
    parts = torch.cat([first[:2], second[:2], first[2:], second[2:]])
    torch.testing.assert_close(symmetric_kl(parts, mask, torch.tensor([0, 0, 1, 1] * 2)), together)
