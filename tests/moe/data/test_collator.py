"""Samplers and the collator: rows without repetition, balanced domains, similar lengths in one batch, seeded."""

import numpy as np
import pytest
import torch
from conftest import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from experts.domain import Domain, LabelSpace
from moe.data.collator import Collator
from moe.data.sampler import DomainBatchSampler
from moe.inference.batches import batch_by_tokens


def batches(counts: list[int], temperature: float = 1.0, size: int = 4, seed: int = 0) -> DomainBatchSampler:
    domains = np.repeat(np.arange(len(counts)), counts)
    lengths = np.random.default_rng(1).integers(1, 100, len(domains))
    return DomainBatchSampler(domains, lengths, size, temperature, seed)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_sampler_at_temperature_one_holds_every_row_once_per_epoch(counts: list[int], size: int) -> None:
    sampler = batches(counts, size=size)
    rows = [row for batch in sampler for row in batch]
    assert sorted(rows) == list(range(sum(counts)))
    assert len(list(sampler)) == len(sampler)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=60), st.integers(1, 120))
@settings(max_examples=60, deadline=None)
def test_batch_by_tokens_holds_every_row_once_within_the_budget(lengths: list[int], tokens: int) -> None:
    result = batch_by_tokens(lengths, tokens)
    assert sorted(np.concatenate(result).tolist()) == list(range(len(lengths)))
    for batch in result:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= tokens
    longest = [max(lengths[i] for i in batch) for batch in result]
    assert longest == sorted(longest), "batches are not in order of length"


def test_sampler_balances_domains_at_a_higher_temperature() -> None:
    sampler = batches([900, 100], temperature=2.0)
    rows = np.array([row for batch in sampler for row in batch])
    assert np.mean(rows >= 900) == pytest.approx(0.25, abs=0.01)
    small = rows[rows >= 900]
    assert len(np.unique(small)) == 100, "some rows of the small domain were never drawn"
    assert np.bincount(small - 900).max() <= 3


def test_sampler_order_depends_on_seed_and_epoch_only() -> None:
    first, second = batches([50, 20]), batches([50, 20])
    assert list(first) == list(second)
    first.set_epoch(1)
    assert list(first) != list(second)
    second.set_epoch(1)
    assert list(first) == list(second)
    assert list(batches([50, 20], seed=1)) != list(batches([50, 20]))


def test_sampler_puts_texts_of_similar_length_in_one_batch() -> None:
    sampler = batches([400], size=8)
    spread = np.mean([np.ptp(sampler.lengths[batch]) for batch in sampler])
    assert spread < 20, "random batches of eight span about 77"


def test_collator_maps_labels_into_their_head() -> None:
    space = LabelSpace.from_domains([Domain("news", {"news": ("a", "b", "c")}), Domain("forum", {"forum": ("c", "a")})])
    collate = Collator(tiny_tokenizer(), "{text}", 8, space, ["news", "forum"])
    row = {"text": "profit rose", "score": None, "label": 0, "task": "forum", "domain": "forum"}
    batch = collate([row, row | {"label": -1, "score": 0.5}, row | {"task": "news", "domain": "else"}])
    assert batch["label"].tolist() == [2, -1, 0]
    assert batch["domain"].tolist() == [1, 1, -1]
    assert batch["score"][1] == 0.5
    assert torch.isnan(batch["score"][0])
    assert batch["input_ids"].shape == (3, 4)
