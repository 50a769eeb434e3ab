"""Claims about batches of texts that keep the same experts."""

import numpy as np

from moe.inference.batches import BATCH_OVERHEAD, batch_by_tokens, cheapest_batches, chunk_size_for, plan_batches

COSTS = np.full(3, 0.1)


def one_hot(experts: list[int]) -> np.ndarray:
    """Return which of three experts each text keeps, (N, 3)."""
    return np.arange(3) == np.array(experts)[:, None]


def test_every_text_is_in_one_batch_within_the_budget() -> None:
    rng = np.random.default_rng(0)
    lengths, active = rng.integers(5, 60, 300), rng.random((300, 3)) > 0.5
    batches = plan_batches(lengths, active, COSTS, [False] * 3, tokens=256)
    assert sorted(np.concatenate([batch.rows for batch in batches])) == list(range(300))
    assert all(len(batch.rows) * lengths[batch.rows].max() <= 256 for batch in batches)
    for batch in batches:
        assert not batch.experts or set(np.flatnonzero(active[batch.rows].any(0))) == set(batch.experts)


def test_sets_with_many_texts_have_batches_of_their_own_and_rare_ones_share() -> None:
    lengths, active = np.full(101, 10), one_hot([0] * 50 + [1] * 50 + [2])
    batches = plan_batches(lengths, active, COSTS, [True] * 3, tokens=250)
    own = {batch.experts: len(batch.rows) for batch in batches}
    assert own == {(0,): 25, (1,): 25, (2,): 1}
    active[100] = active[99] = [True, False, True]
    active[98] = [False, True, True]
    mixed = [batch for batch in plan_batches(lengths, active, COSTS, [True] * 3, tokens=250) if len(batch.experts) > 1]
    assert [batch.experts for batch in mixed] == [(0, 1, 2)], "one batch computes what any of its texts keeps"
    assert sorted(mixed[0].rows) == [98, 99, 100]


def test_texts_scored_at_a_time_suffice_for_batches_of_each_pair_of_experts() -> None:
    rng = np.random.default_rng(0)
    lengths = np.clip(rng.gamma(4, 7, 4096).astype(int), 5, 128)  # (N,), as of headlines
    first = rng.integers(0, 5, 4096)  # (N,)
    active = np.arange(5) == first[:, None]  # (N, E)
    active |= np.arange(5) == (first[:, None] + 1) % 5
    few, many = chunk_size_for(1024), chunk_size_for(1024, by_experts=True)
    computed = [
        {len(batch.experts) for batch in plan_batches(lengths[:n], active[:n], np.full(5, 1 / 16), [False] * 5, 1024)}
        for n in (few, many)
    ]
    assert max(computed[0]) == 5, "pairs with few texts share batches"
    assert computed[1] == {2}
    assert [chunk_size_for(n, by_experts=True) for n in (1024, 4096, 16384, 1)] == [2048, 4096, 8192, 4]


def test_texts_that_keep_no_expert_never_share_a_batch_that_promises_a_single_one() -> None:
    active = one_hot([0, 0, 1, 1])
    active[1] = active[3] = False
    for batch in plan_batches(np.full(4, 10), active, COSTS, [False] * 3, tokens=1000):
        assert len(batch.experts) != 1 or active[batch.rows].any(1).all()


def test_one_set_is_batched_by_length_alone() -> None:
    batches = plan_batches(np.array([9, 1, 5]), one_hot([2, 2, 2]), COSTS, [False] * 3, tokens=5)
    assert [(batch.rows.tolist(), batch.experts) for batch in batches] == [([1], (2,)), ([2], (2,)), ([0], (2,))]


def test_cheapest_batches_cost_no_more_than_full_ones_and_hold_every_text_once() -> None:
    lengths = np.random.default_rng(1).integers(4, 120, 40)  # (N,)

    def cost(batches: list[np.ndarray]) -> float:
        return sum(len(batch) * lengths[batch].max() + 1024 * BATCH_OVERHEAD for batch in batches)

    batches = cheapest_batches(lengths, 1024)
    assert sorted(np.concatenate(batches)) == list(range(40))
    assert all(len(batch) * lengths[batch].max() <= 1024 for batch in batches)
    assert cost(batches) < cost(batch_by_tokens(lengths, 1024))
    assert [batch.tolist() for batch in cheapest_batches(np.array([5, 5, 5, 300]), 256)] == [[0, 1, 2], [3]]
    assert [batch.tolist() for batch in cheapest_batches(np.array([7]), 256)] == [[0]]
