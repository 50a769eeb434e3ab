"""Tests of `router.routing_stats`: mean weights, entropy, accuracy and collapse against manual results."""

import math

import pytest
import torch

from router.routing_stats import Usage, text_entropy

DOMAIN_EXPERT_MASK = torch.tensor([[True, False, False], [False, True, True]])


def example_usage() -> Usage:
    usage = Usage(("news", "bank-a", "bank-b"), ("news", "bank"))
    usage.add(torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]]), torch.tensor([0, 1]), DOMAIN_EXPERT_MASK)
    usage.add(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([1, -1]), DOMAIN_EXPERT_MASK)
    return usage


def test_mean_weights_include_texts_of_unknown_domain() -> None:
    assert example_usage().mean_weights() == pytest.approx({"news": 0.55, "bank-a": 0.1, "bank-b": 0.35})


def test_mean_weights_by_domain() -> None:
    means = example_usage().by_domain()
    assert means["news"] == pytest.approx({"news": 0.8, "bank-a": 0.1, "bank-b": 0.1})
    assert means["bank"] == pytest.approx({"news": 0.7, "bank-a": 0.15, "bank-b": 0.15})


def test_domains_without_texts_are_omitted() -> None:
    usage = Usage(("a", "b"), ("first", "second"))
    usage.add(torch.tensor([[0.5, 0.5]]), torch.tensor([1]), torch.eye(2).bool())
    assert list(usage.by_domain()) == ["second"]


def test_domain_accuracy_sums_experts_of_a_domain_and_skips_unknown_ones() -> None:
    # In text 2 news has the largest single weight, but the two experts of bank together have more.
    assert example_usage().domain_accuracy() == pytest.approx(2 / 3)


def test_mean_entropy_is_the_mean_over_texts() -> None:
    usage = Usage(("a", "b"), ("d",))
    usage.add(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]), torch.ones(1, 2, dtype=torch.bool))
    assert usage.mean_entropy() == pytest.approx(0.5)


def test_mean_entropy_of_a_single_expert_is_0() -> None:
    usage = Usage(("only",), ("d",))
    usage.add(torch.ones(2, 1), torch.tensor([0, 0]), torch.ones(1, 1, dtype=torch.bool))
    assert usage.mean_entropy() == 0.0


def test_collapsed_experts_are_those_below_the_threshold() -> None:
    usage = Usage(("a", "b", "c"), ("d",))
    usage.add(torch.tensor([[0.96, 0.01, 0.03]] * 3), torch.tensor([0] * 3), torch.ones(1, 3, dtype=torch.bool))
    assert usage.collapsed_experts() == ("b",)
    assert usage.collapsed_experts(0.5) == ("b", "c")


def test_usage_without_texts_is_finite_and_has_no_collapsed_experts() -> None:
    usage = Usage(("a", "b"), ("d",))
    assert usage.collapsed_experts() == ()
    assert usage.by_domain() == {}
    assert all(
        math.isfinite(value)
        for value in (*usage.mean_weights().values(), usage.mean_entropy(), usage.domain_accuracy())
    )


def test_usage_accepts_half_precision_and_detaches_gates() -> None:
    usage = Usage(("a", "b"), ("d",))
    probs = torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    usage.add(probs, torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    assert not usage.weight_sums.requires_grad
    assert usage.mean_weights() == {"a": 0.5, "b": 0.5}


def test_text_entropy_of_a_single_expert_or_none_is_0() -> None:
    assert text_entropy(torch.ones(2, 1)).tolist() == text_entropy(torch.ones(2, 0)).tolist() == [0.0, 0.0]
