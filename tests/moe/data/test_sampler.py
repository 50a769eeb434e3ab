"""Tests of `moe.data.sampler`: draws over epochs, shards of processes, lengths, and samples per domain."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.errors import Fault
from moe.data.sampler import DomainBatchSampler, arrow_column, row_lengths, subsample_per_domain


def sampler(
    counts: list[int],
    temperature: float = 1.0,
    size: int = 4,
    seed: int = 0,
    shard: tuple[int, int] = (0, 1),
    window: int = 16,
) -> DomainBatchSampler:
    """Sampler of rows whose domains follow each other."""
    domains = np.repeat(np.arange(len(counts)), counts)
    lengths = np.random.default_rng(1).integers(1, 100, len(domains))
    return DomainBatchSampler(domains, lengths, size, temperature, seed, window, shard)


def epoch_rows(rows: DomainBatchSampler, epoch: int) -> list[int]:
    rows.set_epoch(epoch)
    return list(chain.from_iterable(rows))


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.sampled_from([1.0, 2.0, 5.0]), st.integers(1, 7))
@settings(max_examples=30, deadline=None)
def test_no_row_is_repeated_before_all_others_of_its_domain_were_drawn(
    counts: list[int], temperature: float, size: int
) -> None:
    batches = sampler(counts, temperature, size)
    drawn: Counter[int] = Counter()
    starts = np.cumsum([0, *counts])
    for epoch in range(4):
        rows = epoch_rows(batches, epoch)
        assert len(rows) == batches.rows
        drawn.update(rows)
        for start, count in zip(starts, counts, strict=False):
            draws = [drawn[row] for row in range(start, start + count)]
            assert max(draws) - min(draws) <= 1


@pytest.mark.parametrize("temperature", [1.0, 1.5, 2.0, 4.0])
def test_domains_are_drawn_by_size_to_the_power_of_one_over_temperature(temperature: float) -> None:
    batches = sampler([1600, 400, 100], temperature)
    shares = np.bincount(np.digitize(epoch_rows(batches, 0), [1600, 2000]), minlength=3) / batches.rows
    weights = np.array([1600, 400, 100]) ** (1 / temperature)
    np.testing.assert_allclose(shares, weights / weights.sum(), atol=2e-3)


def test_every_domain_is_drawn_however_small_it_is() -> None:
    assert 5000 in epoch_rows(sampler([5000, 1]), 0)


@pytest.mark.parametrize("processes", [2, 3])
@pytest.mark.parametrize("counts", [[40, 23], [7], [13, 5, 1]])
def test_shards_divide_the_batches_of_one_process(processes: int, counts: list[int]) -> None:
    size = 2 * processes
    shards = [list(sampler(counts, size=size, shard=(rank, processes))) for rank in range(processes)]
    assert len({len(shard) for shard in shards}) == 1, "every process takes the same number of steps"
    together = [sorted(chain.from_iterable(parts)) for parts in zip(*shards, strict=True)]
    rows = list(chain.from_iterable(together))
    assert len(rows) == len(set(rows)) == sum(counts) // processes * processes
    for parts in zip(*shards, strict=True):
        assert len({len(part) for part in parts}) == 1, "and the same number of rows in each"


def test_fewer_rows_than_processes_are_refused() -> None:
    with pytest.raises(Fault, match=r"each of 4 processes; found 3 rows\. Use fewer processes"):
        sampler([3], size=4, shard=(0, 4))


@pytest.mark.parametrize(("count", "size"), [(1, 4), (4, 4), (5, 4), (63, 8), (64, 8), (65, 8)])
def test_number_of_batches_is_known_before_they_are_drawn(count: int, size: int) -> None:
    batches = sampler([count], size=size)
    assert len(list(batches)) == len(batches)
    assert sum(len(batch) < size for batch in batches) <= 1


def test_wider_window_saves_padding() -> None:
    def padding(window: int) -> int:
        batches = sampler([400, 300], size=8, window=window)
        return sum(
            int(batches.lengths[batch].max()) * len(batch) - int(batches.lengths[batch].sum()) for batch in batches
        )

    assert padding(32) < padding(8) < padding(1)


def test_lengths_are_tokens_of_all_documents_of_a_row() -> None:
    rows = Dataset.from_dict({"lengths": [[3, 4], [5], [1, 1, 1]], "input_ids": [[0] * 7, [0] * 5, [0] * 3]})
    assert row_lengths(rows).tolist() == [7, 5, 3]
    assert row_lengths(rows.select([2, 0])).tolist() == [3, 7]


def test_lengths_are_characters_of_text_and_target_otherwise() -> None:
    rows = Dataset.from_dict({"text": ["up", "利好😀", ""], "target": [None, "ab", "c"]})
    assert row_lengths(rows).tolist() == [2, 5, 1]
    assert row_lengths(rows.remove_columns("target")).tolist() == [2, 3, 0]
    assert row_lengths(rows.select([])).tolist() == []


def test_arrow_column_follows_the_selected_rows() -> None:
    rows = Dataset.from_dict({"domain": ["a", "b", "c"], "text": ["x", "y", "z"]})
    assert arrow_column(rows.select([2, 0]), "domain").to_pylist() == ["c", "a"]


@pytest.mark.parametrize("seed", range(5))
def test_samples_are_random_in_order_and_complete_for_some_domains(seed: int) -> None:
    names = np.random.default_rng(seed).choice(["a", "b", "c"], 200, p=[0.7, 0.25, 0.05]).tolist()
    rows = Dataset.from_dict({"domain": names, "n": list(range(200))})
    sample = subsample_per_domain(rows, 20, seed, keep_all=["b"])
    assert sample["n"] == sorted(set(sample["n"]))
    counts, original = Counter(sample["domain"]), Counter(names)
    assert counts == {"a": 20, "b": original["b"], "c": min(20, original["c"])}
    assert sample["n"] == subsample_per_domain(rows, 20, seed, keep_all=["b"])["n"]
    assert sample["n"] != subsample_per_domain(rows, 20, seed + 1, keep_all=["b"])["n"]
