"""Tests of `moe.export.selection`: single and merged experts, their updates and heads."""

from pathlib import Path

import pytest
import torch
from exports import pinned_outputs, save_and_load_mixture
from torch import Tensor

from experts.errors import Fault
from experts.lora_delta import LowRankUpdate
from experts.merge_methods import DEFAULT_DENSITY
from moe.export.selection import (
    AdapterSpec,
    ExportSource,
    adapter_update,
    heads_for,
    merged_expert_spec,
    pinned_update,
    single_expert_specs,
)
from moe.model.heads import Heads, MixedHeads


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ExportSource:
    """A mixture of two experts and a shared one, with heads per expert."""
    return save_and_load_mixture(tmp_path_factory.mktemp("selection"), shared=True)


def dense(update: LowRankUpdate, path: str) -> Tensor:
    """Return a layer's update as a matrix (D_out, D_in)."""
    a, b = update.layers[path]
    return update.scaling * b @ a


def test_single_experts_are_those_named_or_all(source: ExportSource) -> None:
    assert [spec.name for spec in single_expert_specs(source.model, ())] == ["news", "forum", "shared"]
    assert single_expert_specs(source.model, ["forum"]) == [AdapterSpec("forum", {"forum": 1.0})]
    with pytest.raises(Fault, match="one of the experts news, forum, shared; found 'nws'"):
        single_expert_specs(source.model, ["forum", "nws"])


def test_merge_has_equal_weights_that_add_up_to_1_unless_some_are_given(source: ExportSource) -> None:
    spec = merged_expert_spec(source.model, "dare_linear_svd", None, rank=2)
    assert (spec.name, spec.weights, spec.density, spec.rank) == (
        "merged-dare-linear-svd",
        {"news": 0.5, "forum": 0.5},
        DEFAULT_DENSITY,
        2,
    )
    given = merged_expert_spec(source.model, "ties", " news=0.7, forum=2 ", density=0.25)
    assert (given.weights, given.density) == ({"news": 0.7, "forum": 2.0}, 0.25)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("news=1,shared=1", "one of the experts news, forum; found 'shared'"),
        ("news=1,,forum=1", "found ''"),
        ("news=one,forum=1", "for news; found 'news=one'. Give a number, e.g. news=0.7,forum=0.3"),
        ("news=-1,forum=1", "a weight above 0 and up to 100 for news; found -1"),
        ("news=inf,forum=1", "for news; found inf"),
        ("news=101,forum=1", "for news; found 101"),
        ("news=1,forum=1,news=2", "a single weight for news; found two or more. Give each expert once"),
        ("forum=1", "two or more experts to merge; found forum"),
    ],
)
def test_weights_that_are_no_weights_of_experts_are_refused(source: ExportSource, weights: str, message: str) -> None:
    with pytest.raises(Fault, match=message):
        merged_expert_spec(source.model, "linear", weights)


def test_shared_expert_is_not_added_to_itself(source: ExportSource) -> None:
    spec = AdapterSpec("shared", {"shared": 1.0})
    alone, pinned = adapter_update(source.model, spec), pinned_update(source.model, spec)
    for path in alone.layers:
        torch.testing.assert_close(dense(pinned, path), dense(alone, path))


def test_concatenated_experts_are_their_weighted_sum_and_pinned_ones_add_the_shared_expert(
    source: ExportSource,
) -> None:
    model = source.model
    single = {spec.name: adapter_update(model, spec) for spec in single_expert_specs(model, ())}
    merged = merged_expert_spec(model, "cat", "news=0.7,forum=0.3")
    for path in single["news"].layers:
        expected = 0.7 * dense(single["news"], path) + 0.3 * dense(single["forum"], path)
        torch.testing.assert_close(dense(adapter_update(model, merged), path), expected, atol=1e-5, rtol=1e-4)
        with_shared = expected + dense(single["shared"], path)
        torch.testing.assert_close(dense(pinned_update(model, merged), path), with_shared, atol=1e-5, rtol=1e-4)


def test_heads_of_an_expert_give_its_logits(source: ExportSource) -> None:
    for name in ("news", "forum"):
        heads = heads_for(source.model, AdapterSpec(name, {name: 1.0}))
        logits, pooled = pinned_outputs(source, name)
        assert heads is not None
        for head, expected in logits.items():
            torch.testing.assert_close(heads.eval()(pooled).logits[head], expected)


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_heads_of_a_merge_are_the_weighted_mean_whatever_the_sum_of_weights(source: ExportSource, scale: float) -> None:
    spec = AdapterSpec("merged", {"news": 0.75 * scale, "forum": 0.25 * scale}, "linear")
    heads = heads_for(source.model, spec)
    assert heads is not None
    assert isinstance(source.model.heads, MixedHeads)
    before = {key: tensor.clone() for key, tensor in source.model.heads.state_dict().items()}
    for key, tensor in heads.state_dict().items():
        news, forum = (source.model.heads.experts[name].state_dict()[key] for name in ("news", "forum"))
        torch.testing.assert_close(tensor, 0.75 * news + 0.25 * forum)
    with torch.no_grad():
        for parameter in heads.parameters():
            parameter.zero_()
    assert all(torch.equal(before[key], tensor) for key, tensor in source.model.heads.state_dict().items())


def test_shared_expert_has_no_heads_of_its_own(source: ExportSource, tmp_path: Path) -> None:
    assert heads_for(source.model, AdapterSpec("shared", {"shared": 1.0})) is None
    averaged = save_and_load_mixture(tmp_path, heads="averaged")
    assert isinstance(averaged.model.heads, Heads)
    for name in ("news", "forum"):
        assert heads_for(averaged.model, AdapterSpec(name, {name: 1.0})) is averaged.model.heads
