"""Which texts to label next: each strategy takes what its name says, as many as wanted, and none twice."""

from typing import get_args

import numpy as np
import pytest

from experts.errors import Fault
from moe.labels.selection import Strategy, check_strategy, disagreement, select, select_diverse, uncertainty

PROBABILITIES = np.array([[0.9, 0.1, 0.0], [0.4, 0.35, 0.25], [0.6, 0.4, 0.0], [1.0, 0.0, 0.0]])


def test_uncertainty_is_one_minus_the_margin_of_the_two_first_labels() -> None:
    assert uncertainty(PROBABILITIES) == pytest.approx([0.2, 0.95, 0.8, 0.0])


def test_disagreement_is_zero_for_equal_experts_and_log_2_for_opposite_ones() -> None:
    sure, opposite = [1.0, 0.0], [0.0, 1.0]
    assert disagreement(np.array([[sure, sure], [sure, opposite]])) == pytest.approx([0.0, np.log(2)], abs=1e-9)


def test_diverse_texts_are_one_of_each_cluster_the_largest_first() -> None:
    random = np.random.default_rng(0)
    centres = np.eye(3)[[0] * 12 + [1] * 8 + [2] * 4] * 5
    chosen = select_diverse(centres + random.normal(0, 0.05, (24, 3)), 3, seed=1)
    assert [int(i >= 12) + int(i >= 20) for i in chosen] == [0, 1, 2]


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_diverse_texts_are_as_many_as_wanted_even_if_states_are_equal() -> None:
    assert len(set(select_diverse(np.ones((9, 4)), 5, seed=1))) == 5
    assert select_diverse(np.ones((3, 4)), 5, seed=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("by", get_args(Strategy))
@pytest.mark.parametrize("most", [1, 7, 40, 100])
def test_select_returns_distinct_texts_up_to_all_and_repeats_itself(by: Strategy, most: int) -> None:
    random = np.random.default_rng(3)
    states, probabilities = random.normal(0, 1, (40, 5)), random.dirichlet([1, 1, 1], 40)
    experts = random.dirichlet([1, 1, 1], (2, 40))
    first, again = (
        select(by, most, states=states, probabilities=probabilities, expert_probabilities=experts, seed=5)
        for _ in range(2)
    )
    assert len(set(first[0].tolist())) == len(first[0]) == min(most, 40)
    assert first[0].tolist() == again[0].tolist()
    assert first[1].shape == (40,)


def test_select_by_uncertainty_starts_with_the_smallest_margin() -> None:
    order, _ = select("uncertainty", 2, states=np.eye(4), probabilities=PROBABILITIES)
    assert order.tolist() == [1, 2]


def test_unknown_strategy_is_refused() -> None:
    with pytest.raises(Fault, match="--by uncertainty, disagreement, diversity, mixed or random; found 'best'"):
        check_strategy("best")
