"""Tests of pooling and heads."""

import pytest
import torch

from experts.domain import Domain, LabelSpace
from moe.model.heads import (
    Heads,
    HeadSettings,
    LabelTables,
    MixedHeads,
    head_key,
    mask_logits,
    pool,
)

MASK = torch.tensor([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
STATES = torch.arange(18.0).reshape(3, 3, 2)
HEADS = {"a-b-c": ("a", "b", "c"), "x-y": ("x", "y")}


def test_mean_pooling_averages_real_tokens_only() -> None:
    expected = torch.stack([STATES[0, :2].mean(0), STATES[1].mean(0), STATES[2, 1:].mean(0)])
    torch.testing.assert_close(pool(STATES, MASK, "mean"), expected)


def test_last_pooling_follows_the_mask_with_padding_on_either_side() -> None:
    torch.testing.assert_close(pool(STATES, MASK, "last"), torch.stack([STATES[0, 1], STATES[1, 2], STATES[2, 2]]))


def test_linear_heads_without_bias_are_a_product_with_the_state() -> None:
    heads = Heads(2, HEADS, HeadSettings(bias=False), polarity=False).eval()
    pooled = pool(STATES, MASK, "mean")
    assert not any("bias" in name for name in heads.state_dict())
    torch.testing.assert_close(heads(pooled).logits["x-y"], pooled @ heads.state_dict()["classes.x-y.1.weight"].T)


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


@pytest.mark.parametrize("seed", range(5))
def test_pooling_ignores_padding_and_follows_a_permutation_of_the_batch(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    states = torch.randn(6, 5, 4, generator=random)
    mask = torch.arange(5)[None] < torch.randint(1, 6, (6, 1), generator=random)  # (B, T), padded on the right
    other = torch.where(mask[..., None], states, 1e6 * torch.ones_like(states))
    order = torch.randperm(6, generator=random)
    for kind in ("mean", "last"):
        pooled = pool(states, mask.long(), kind)
        assert pooled.dtype == torch.float32
        torch.testing.assert_close(pool(other, mask.long(), kind), pooled)
        torch.testing.assert_close(pool(states[order], mask[order].long(), kind), pooled[order])
        torch.testing.assert_close(pool(states.flip(1), mask.flip(1).long(), "mean"), pool(states, mask.long(), "mean"))


def test_pooling_of_half_precision_is_computed_in_full() -> None:
    states = torch.full((1, 300, 2), 300.0, dtype=torch.float16)  # their sum is beyond the range of float16
    assert pool(states, torch.ones(1, 300), "mean").tolist() == [[300.0, 300.0]]
    assert pool(states, torch.zeros(1, 300), "mean").tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("seed", range(5))
def test_mixed_heads_are_linear_in_the_gates(seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    settings = HeadSettings(polarity_bound="none")
    mixed = MixedHeads({f"e{i}": Heads(3, HEADS, settings, polarity=True, seed=i) for i in range(4)}).eval()
    pooled = torch.randn(5, 3, generator=random)
    first, second = (torch.rand(5, 4, generator=random).softmax(-1) for _ in range(2))
    share = 0.3
    out = mixed(pooled, share * first + (1 - share) * second)
    ours, theirs = mixed(pooled, first), mixed(pooled, second)
    for name, logits in out.logits.items():
        torch.testing.assert_close(logits, share * ours.logits[name] + (1 - share) * theirs.logits[name])
    torch.testing.assert_close(out.polarity, share * ours.polarity + (1 - share) * theirs.polarity)


def test_gates_of_one_row_apply_to_every_text() -> None:
    mixed = MixedHeads({f"e{i}": Heads(2, HEADS, HeadSettings(), polarity=False, seed=i) for i in range(2)}).eval()
    pooled, gates = torch.randn(3, 2), torch.tensor([[0.25, 0.75]])
    for name, logits in mixed(pooled, gates).logits.items():
        torch.testing.assert_close(logits, mixed(pooled, gates.expand(3, 2)).logits[name])


def test_label_tables_mask_the_labels_that_a_task_does_not_use() -> None:
    three, two = ("negative", "neutral", "positive"), ("positive", "negative")
    labels = LabelSpace.from_domains(
        [Domain("news", {"news": three}), Domain("polar", {"polar": two}), Domain("rates", {"rates": ("hike", "cut")})]
    )
    tables = LabelTables.of(labels)
    assert tables.heads == ("negative-neutral-positive", "hike-cut")
    assert tables.head_of.tolist() == [0, 0, 1]
    assert tables.masks["negative-neutral-positive"].tolist() == [[True] * 3, [True, False, True], [False] * 3]
    assert tables.masks["hike-cut"].tolist() == [[False] * 2, [False] * 2, [True] * 2]
    task, label = torch.tensor([0, 1, 2, -1, 0]), torch.tensor([2, -1, 0, 1, 0])
    assert tables.labelled_rows("negative-neutral-positive", task, label).tolist() == [True, False, False, False, True]
    assert tables.labelled_rows("hike-cut", task, label).tolist() == [False, False, True, False, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_masked_logits_have_no_probability_in_any_precision(dtype: torch.dtype) -> None:
    logits = torch.tensor([[3.0, 9.0, 1.0]], dtype=dtype)
    masked = mask_logits(logits, torch.tensor([[True, False, True]]))
    assert masked.tolist() == [[3.0, torch.finfo(dtype).min, 1.0]]
    probabilities = masked.float().softmax(-1)
    assert probabilities[0, 1] == 0.0
    assert probabilities.argmax().item() == 0


def test_head_names_with_a_dot_are_module_keys_and_come_back_in_the_output() -> None:
    heads = Heads(2, {"v1.5-v2.0": ("v1.5", "v2.0")}, HeadSettings(), polarity=False)
    assert head_key("v1.5-v2.0") == "v1_5-v2_0"
    assert list(heads(torch.zeros(1, 2)).logits) == ["v1.5-v2.0"]


def test_building_heads_leaves_the_random_state_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    Heads(4, HEADS, HeadSettings(kind="mlp"), polarity=True, seed=9)
    assert torch.equal(torch.rand(2), expected)
