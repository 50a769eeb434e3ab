"""Tests of the weights of losses that not all rows carry."""

import pytest
import torch

from router.loss_weighting import weights_by_rows


def test_weights_apply_to_the_rows_that_carry_both_losses() -> None:
    weights = {"classes": torch.tensor(0.4), "polarity": torch.tensor(1.6)}
    assert weights_by_rows(weights, {"classes": 12, "polarity": 12}) == weights
    partial = weights_by_rows(weights, {"classes": 12, "polarity": 3})
    assert partial["classes"].item() == pytest.approx(0.75 + 0.25 * 0.4)
    assert partial["polarity"].item() == pytest.approx(0.25 * 1.6)
    alone = {"classes": torch.tensor(1.0)}
    assert weights_by_rows(alone, {"classes": 12}) == alone
    scores_only = {"polarity": torch.tensor(1.0)}
    assert weights_by_rows(scores_only, {"polarity": 12}) == scores_only
