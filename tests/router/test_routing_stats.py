"""Claims about `router.routing_stats`: its table, accuracy and alarm against hand numbers."""

import math

import pytest
import torch

from router.routing_stats import Usage, text_entropy

OWNERS = torch.tensor([[True, False, False], [False, True, True]])


def filled() -> Usage:
    usage = Usage(("news", "bank-a", "bank-b"), ("news", "bank"))
    usage.add(torch.tensor([[0.8, 0.1, 0.1], [0.4, 0.3, 0.3]]), torch.tensor([0, 1]), OWNERS)
    usage.add(torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]), torch.tensor([1, -1]), OWNERS)
    return usage


def test_share_is_the_mean_over_all_texts_also_unknown_ones() -> None:
    assert filled().share() == pytest.approx({"news": 0.55, "bank-a": 0.1, "bank-b": 0.35})


def test_table_is_the_mean_share_by_domain() -> None:
    table = filled().table()
    assert table["news"] == pytest.approx({"news": 0.8, "bank-a": 0.1, "bank-b": 0.1})
    assert table["bank"] == pytest.approx({"news": 0.7, "bank-a": 0.15, "bank-b": 0.15})


def test_table_leaves_out_domains_that_were_not_seen() -> None:
    usage = Usage(("a", "b"), ("first", "second"))
    usage.add(torch.tensor([[0.5, 0.5]]), torch.tensor([1]), torch.eye(2).bool())
    assert list(usage.by_domain()) == ["second"]


def test_accuracy_counts_a_domains_experts_together_and_only_known_domains() -> None:
    # Text 2 gives news its largest single share, but the two banks together more.
    assert filled().accuracy() == pytest.approx(2 / 3)


def test_entropy_is_the_mean_of_each_texts_own() -> None:
    usage = Usage(("a", "b"), ("d",))
    usage.add(torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([0, 0]), torch.ones(1, 2, dtype=torch.bool))
    assert usage.mean_entropy() == pytest.approx(0.5)


def test_entropy_of_one_expert_is_zero() -> None:
    usage = Usage(("only",), ("d",))
    usage.add(torch.ones(2, 1), torch.tensor([0, 0]), torch.ones(1, 1, dtype=torch.bool))
    assert usage.mean_entropy() == 0.0


def test_collapse_alarm_names_the_experts_below_the_threshold() -> None:
    usage = Usage(("a", "b", "c"), ("d",))
    usage.add(torch.tensor([[0.96, 0.01, 0.03]] * 3), torch.tensor([0] * 3), torch.ones(1, 3, dtype=torch.bool))
    assert usage.collapsed_experts() == ("b",)
    assert usage.collapsed_experts(0.5) == ("b", "c")


def test_before_the_first_text_nothing_is_nan_and_nobody_has_collapsed() -> None:
    usage = Usage(("a", "b"), ("d",))
    assert usage.collapsed_experts() == ()
    assert usage.by_domain() == {}
    assert all(
        math.isfinite(value) for value in (*usage.share().values(), usage.mean_entropy(), usage.domain_accuracy())
    )


def test_gates_are_counted_without_their_graph_and_in_any_precision() -> None:
    usage = Usage(("a", "b"), ("d",))
    dense = torch.tensor([[0.5, 0.5]], dtype=torch.bfloat16, requires_grad=True)
    usage.add(dense, torch.tensor([0]), torch.ones(1, 2, dtype=torch.bool))
    assert not usage.sums.requires_grad
    assert usage.share() == {"a": 0.5, "b": 0.5}


def test_one_expert_or_none_has_no_entropy() -> None:
    assert text_entropy(torch.ones(2, 1)).tolist() == text_entropy(torch.ones(2, 0)).tolist() == [0.0, 0.0]
