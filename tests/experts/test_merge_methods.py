"""Tests of `experts.merge_methods`: exact methods equal the weighted sum, and no method changes the base layers."""

import pytest
import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from experts.errors import Fault
from experts.lora_delta import LowRankUpdate
from experts.merge_methods import MERGE_METHODS, merge_updates

NAMES = ("layer.0.q", "layer.0.k", "layer.1.q")
WEIGHTS = {"news": 0.7, "forum": 0.3}


def base_layers(kind: str = "linear") -> dict[str, nn.Module]:
    make = (lambda: nn.Linear(6, 4)) if kind == "linear" else lambda: Conv1D(4, 6)
    return {name: make().requires_grad_(False) for name in NAMES}


def random_update(rank: int, scaling: float, seed: int) -> LowRankUpdate:
    torch.manual_seed(seed)
    return LowRankUpdate(rank, scaling, {name: (torch.randn(rank, 6), torch.randn(4, rank)) for name in NAMES})


def dense(update: LowRankUpdate, name: str) -> Tensor:
    """Return a layer's update as a matrix (D_out, D_in)."""
    a, b = update.layers[name]
    return update.scaling * b @ a


UPDATES = {"news": random_update(2, 2.0, 0), "forum": random_update(1, 0.5, 1)}


@pytest.mark.parametrize("kind", ["linear", "conv1d"])
@pytest.mark.parametrize("method", ["cat", "svd"])
def test_cat_and_full_rank_svd_equal_the_weighted_sum(kind: str, method: str) -> None:
    rank = 3 if method == "svd" else None
    merged = merge_updates(UPDATES, WEIGHTS, method, base_layers(kind), rank=rank)
    for name in NAMES:
        expected = sum(weight * dense(UPDATES[key], name) for key, weight in WEIGHTS.items())
        torch.testing.assert_close(dense(merged, name), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("method", MERGE_METHODS)
def test_every_method_updates_every_layer_and_no_base_layer(method: str) -> None:
    layers = base_layers()
    before = {name: layer.weight.clone() for name, layer in layers.items()}
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    merged = merge_updates(UPDATES, WEIGHTS, method, layers)
    assert torch.equal(torch.random.get_rng_state(), state), "DARE must not change the global random state"
    again = merge_updates(UPDATES, WEIGHTS, method, layers)
    assert merged.layers.keys() == set(NAMES)
    for name in NAMES:
        assert torch.equal(dense(merged, name), dense(again, name))
        assert dense(merged, name).any()
        assert torch.equal(layers[name].weight, before[name])
        assert type(layers[name]) is nn.Linear


def test_unknown_method_is_refused() -> None:
    with pytest.raises(Fault, match="Did you mean linear"):
        merge_updates(UPDATES, WEIGHTS, "lineer", base_layers())
