"""Tests of pooling and heads."""

import pytest
import torch

from moe.model.heads import Heads, HeadSettings, MixedHeads, pool

MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
STATES = torch.arange(18.0).reshape(3, 3, 2)
HEADS = {"a-b-c": ("a", "b", "c"), "x-y": ("x", "y")}


def test_mean_pooling_averages_real_tokens_only() -> None:
    expected = torch.stack([STATES[0, :2].mean(0), STATES[1].mean(0), STATES[2, 1:].mean(0)])
    torch.testing.assert_close(pool(STATES, MASK, "mean"), expected)


def test_last_pooling_follows_the_mask_with_padding_on_either_side() -> None:
    torch.testing.assert_close(pool(STATES, MASK, "last"), torch.stack([STATES[0, 1], STATES[1, 2], STATES[2, 2]]))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_mixed_heads_equal_one_expert_for_one_hot_gates_and_the_mean_for_equal(kind: str) -> None:
    settings = HeadSettings(kind=kind, polarity_bound="none")
    own = {name: Heads(2, HEADS, settings, polarity=True, seed=i) for i, name in enumerate(("e", "f"))}
    mixed, h = MixedHeads(own).eval(), torch.randn(3, 2)
    single = [heads.eval()(h) for heads in own.values()]
    out = mixed(h, torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]]))
    for head in HEADS:
        torch.testing.assert_close(out.logits[head][0], single[0].logits[head][0])
        torch.testing.assert_close(out.logits[head][1], single[1].logits[head][1])
        torch.testing.assert_close(out.logits[head][2], (single[0].logits[head][2] + single[1].logits[head][2]) / 2)
    torch.testing.assert_close(out.polarity[2], (single[0].polarity[2] + single[1].polarity[2]) / 2)


@pytest.mark.parametrize(("bound", "bounded"), [("tanh", True), ("clip", True), ("none", False)])
def test_polarity_bound_limits_the_polarity_as_configured(bound: str, bounded: bool) -> None:
    heads = Heads(2, HEADS, HeadSettings(polarity_bound=bound), polarity=True).eval()
    polarity = heads(torch.randn(64, 2) * 100).polarity
    assert bool((polarity.abs() <= 1).all()) is bounded


def test_heads_with_equal_seeds_are_equal() -> None:
    a, b = (Heads(4, HEADS, HeadSettings(kind="mlp"), True, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_heads_without_polarity_return_no_polarity() -> None:
    assert Heads(2, HEADS, HeadSettings(), polarity=False)(torch.randn(1, 2)).polarity is None
